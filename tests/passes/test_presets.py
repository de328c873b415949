"""Whole presets on a trained model: integers between all layers, and a text's result depends on that text alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx import registry
from bct_onnx.forms import codes
from bct_onnx.graph import load, tensors
from bct_onnx.integer import KERNELS
from bct_onnx.runtime.feeds import random_feeds
from bct_onnx.runtime.session import run, session
from bct_onnx.runtime.vocabulary import vocabulary
from tests.passes.small import LEVELS

Rewritten = Callable[..., ir.Model]


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


@pytest.mark.parametrize("preset", ["bct-plus", "bct"])
def test_integers_between_all_layers(preset: str, rewritten: Rewritten) -> None:
    """From the embeddings to the classifier nothing is float but what tables give and weights decode to."""
    target = rewritten(preset, "portable")
    names = [node.op_type for node in target.graph]
    assert not {"Gelu", "Tanh", "Softmax", "Attention", "LayerNormalization"} & set(names)
    assert names.count("IntegerLayerNorm") == 7 and names.count("IntegerAdd") == 6
    assert names.count("IntegerMaskedAttention") == names.count("IntegerGelu") == 3
    products = [node for node in target.graph if node.op_type == "MatMul"]
    assert len(products) == 19 and all(codes.read(node.inputs[0]) for node in products)
    sums = [node for node in target.graph if node.op_type == "Add" and not _is_bias(node)]
    assert len(sums) == 2, "of words, positions and types"


@pytest.mark.parametrize("preset", ["bct-plus", "bct"])
def test_codes_from_layer_to_layer(preset: str, rewritten: Rewritten) -> None:
    target = rewritten(preset)
    names = [node.op_type for node in target.graph]
    assert names.count("MatMulIntegerToFloat") == 19 - 3 * 2 and "MatMul" not in names, "q, k and v are one product"
    assert names.count("LayerNormalization") == 7 and names.count("Attention") == names.count("Split") == 3
    assert names.count("QuantizeLinear") <= 2 + 7 + 3 * 2 and names.count("DequantizeLinear") <= 2
    assert not any(name.startswith("Integer") for name in names) and names.count("QLinearSigmoid") == 3 + 1


def test_scales_of_the_paper_are_powers_of_two(rewritten: Rewritten) -> None:
    target = rewritten("bct", "portable")
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


def _is_bias(node: ir.Node) -> bool:
    return any(codes.vector(value) is not None for value in node.inputs)
