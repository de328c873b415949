"""Whole presets on a trained model: integers between all layers, and a text's result depends on that text alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx import registry
from bct_onnx.forms import codes
from bct_onnx.graph import load, tensors
from bct_onnx.integer import KERNELS
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.feeds import random_feeds
from bct_onnx.runtime.session import run, session
from bct_onnx.runtime.vocabulary import vocabulary
from tests.passes.small import LEVELS

Rewritten = Callable[..., ir.Model]

FLOAT = {"Attention", "Gelu", "LayerNormalization", "Softmax", "Tanh"}
"""Operators of floats for which presets put integer functions."""


@pytest.mark.parametrize(
    ("preset", "target"),
    [
        *((preset, "ort-cpu") for preset in ("bct-plus", "bct", "fast", "w4a8", "w8a8")),
        *((preset, "portable") for preset in ("bct-plus", "bct")),  # others multiply floats, whose order may vary
    ],
)
def test_the_same_text_gives_the_same_result_in_every_batch(
    preset: str, target: str, bundled_model: Path, rewritten: Rewritten
) -> None:
    original, result = load.load(bundled_model), rewritten(preset, target)
    feeds = random_feeds(original, batch=4, sequence=24, seed=1, vocab=vocabulary(original), padding=True)
    lengths = feeds["attention_mask"].sum(-1)
    assert len(set(lengths.tolist())) > 1
    for level in LEVELS if target == "ort-cpu" else ("disabled",):
        runner = session(result, optimize=level)
        (whole,) = run(runner, feeds)
        for row, length in enumerate(lengths.tolist()):
            (alone,) = run(runner, {name: value[row : row + 1, :length] for name, value in feeds.items()})
            np.testing.assert_array_equal(alone[0], whole[row], err_msg=f"{level}, row {row}")


@pytest.fixture(scope="module")
def boxes(bundled_model: Path) -> Rewritten:
    """``boxes(preset)``: the bundled model with a box per integer function, as no lowering has touched them."""
    kept = {"lower-portable": {"functions": "keep"}, "lower-norms": {"form": "integer"}}

    @functools.cache
    def make(preset: str) -> ir.Model:
        result = load.load(bundled_model)
        pipeline = registry.complete(preset, "portable").replace(kept)
        rewrite(result, pipeline, target="portable", options=Options(check=False))
        return result

    return make


@pytest.mark.parametrize(("preset", "lookups"), [("bct-plus", 0), ("bct", 1)])
def test_integers_between_all_layers(preset: str, lookups: int, boxes: Rewritten) -> None:
    """From the embeddings to the classifier nothing is float but what tables give and weights decode to.

    With the steps of ``bct``, GELU of the one token of the last layer is kept better by 256 exact results.
    """
    target = boxes(preset)
    names = [node.op_type for node in target.graph]
    assert not FLOAT & set(names)
    assert names.count("IntegerLayerNorm") == 7 and names.count("IntegerAdd") == 6
    assert names.count("IntegerMaskedAttention") == 3 and names.count("IntegerTanh") == 1
    assert names.count("IntegerGelu") == 3 - lookups and names.count("Lookup") == lookups
    products = [node for node in target.graph if node.op_type == "MatMul"]
    assert len(products) == 19 and all(codes.read(node.inputs[0]) for node in products)
    sums = [node for node in target.graph if node.op_type == "Add" and not _is_bias(node)]
    assert len(sums) == 2, "of words, positions and types"


@pytest.mark.parametrize("preset", ["bct-plus", "bct"])
def test_portable_files_normalize_floats_alone(preset: str, rewritten: Rewritten) -> None:
    """Functions are inlined; between the normalizations their integers stay."""
    target = rewritten(preset, "portable")
    names = [node.op_type for node in target.graph]
    assert FLOAT & set(names) == {"LayerNormalization"} and names.count("LayerNormalization") == 7
    assert not target.functions and not any(node.domain for node in target.graph)
    assert names.count("MatMul") == 19 and names.count("MatMulInteger") == 3 * 3, "three products an attention"


@pytest.mark.parametrize("preset", ["bct-plus", "bct"])
def test_codes_from_layer_to_layer(preset: str, rewritten: Rewritten) -> None:
    target = rewritten(preset)
    names = [node.op_type for node in _run_without_padding(target.graph)]
    assert names.count("MatMulIntegerToFloat") == 19 and not {"MatMul", "Split"} & set(names), "q, k and v apart"
    assert names.count("LayerNormalization") == 7 and names.count("Attention") == 3
    assert names.count("QuantizeLinear") <= 2 + 7 + 3 * 2 + 1 and names.count("DequantizeLinear") <= 2
    assert not any(name.startswith("Integer") for name in names)
    assert names.count("QLinearSigmoid") == 1 and names.count("Gelu") == 3


def test_scales_of_the_paper_are_powers_of_two(boxes: Rewritten) -> None:
    target = boxes("bct")
    read = [codes.read(node.outputs[0]) for node in target.graph if node.op_type == "DequantizeLinear"]
    scales = [one.scale for one in read if one is not None]
    for node in target.graph:
        if node.op_type in KERNELS:
            pairs = zip(KERNELS[node.op_type].inputs, node.inputs, strict=True)
            scales += [value for name, value in pairs if value and name.endswith("scale") and name != "qk_scale"]
    assert len(scales) > 50
    assert all((np.frexp(tensors.array(value))[0] == 0.5).all() for value in scales)


def test_the_default_preset() -> None:
    assert next(iter(registry.PRESETS)) == "bct-plus"


def _run_without_padding(graph: ir.Graph) -> Iterator[ir.Node]:
    """The nodes that run on a batch in which every token is real."""
    for node in graph:
        if node.op_type == "If":
            yield from node.attributes["then_branch"].as_graph()
        else:
            yield node


def _is_bias(node: ir.Node) -> bool:
    return any(codes.vector(value) is not None for value in node.inputs)
