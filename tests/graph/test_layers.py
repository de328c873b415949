"""Layers are what repeats, wherever the first of them begins."""

from __future__ import annotations

import itertools
from pathlib import Path

import onnx_ir as ir
import pytest

from bct_onnx import registry
from bct_onnx.errors import UsageError
from bct_onnx.graph.layers import layers
from bct_onnx.graph.load import load
from bct_onnx.rewriting import rewrite
from tests.passes import small

BODY = "h{n} = MatMul ({x}, w{n}) g{n} = Gelu (h{n}) t{n} = Tanh (g{n}) {y} = Add ({x}, t{n})"


def repeated(count: int, before: str = "", behind: str = "", size: int = 64) -> ir.Model:
    """So many layers, with nodes before and behind them."""
    names = ["e", *(f"r{number}" for number in range(count))]
    body = " ".join(BODY.format(n=n, x=names[n], y=names[n + 1]) for n in range(count))
    arrays = {f"w{number}": small.normal(64, size, seed=number) for number in range(count)}
    text = f"{before or 'e = Identity (x)'} {body} {behind or f'y = Identity ({names[-1]})'}"
    return small.model(f"g (float[n,64] x) => (float[n,64] y) {{ {text} }}", **arrays)


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize(
    ("before", "behind"),
    [("", ""), ("q = Tanh (x) e = Add (q, x)", ""), ("", "p = Gelu (r1) u = Tanh (p) y = Neg (u)")],
)
def test_layers_are_counted_and_cut_between_sums(count: int, before: str, behind: str) -> None:
    found = layers(repeated(count, before, behind.replace("r1", f"r{count - 1}")).graph)
    assert [layer.leaving.name for layer in found] == [f"r{number}" for number in range(count)]
    assert found[0].entering.name == "e"
    assert all(len(layer.nodes) == 4 for layer in found)


def test_layers_hand_on_one_value() -> None:
    found = layers(repeated(4).graph)
    assert all(one.leaving is other.entering for one, other in itertools.pairwise(found))


@pytest.mark.whole
def test_the_layers_of_an_encoder(bundled_model: Path) -> None:
    model = load(bundled_model)
    for each in registry.parse("lift"):
        each(model)
    found = layers(model.graph)
    assert len(found) == 3
    assert all([node.op_type for node in layer.nodes].count("Attention") == 1 for layer in found)


def test_a_layer_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UsageError, match="there is no layer 3") as caught:
        rewrite(repeated(3), "drop-layers{keep=0|3}")
    assert "layers 0 to 2" in (caught.value.fix or "")
