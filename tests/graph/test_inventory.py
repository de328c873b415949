"""The inventory counts every stored byte once, and says what each is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from bct_onnx.graph.inventory import PARAMETERS, inventory
from bct_onnx.quant import Scheme
from bct_onnx.rewriting import rewrite
from passes.quantize_embeddings import QuantizeEmbeddings
from passes.quantize_weights import QuantizeWeights
from tests.graph import handmade
from tests.passes.small import HEAD, apply, model, normal

TEXT = """g (int64[n] ids) => (float[n,32] y) {
    e = Gather (table, ids)  h = LayerNormalization (e, gamma)  m = MatMul (h, w)
    s = Add (m, b)  y = Reshape (s, shape) }"""
ARRAYS = {
    "table": normal(40, 64),
    "gamma": normal(64),
    "w": normal(64, 32),
    "b": normal(32),
    "shape": np.array([-1, 32]),
    "unused": normal(999),
}


def test_kinds_bytes_and_parameters() -> None:
    found = inventory(model(TEXT, **ARRAYS))
    assert found.bytes_by_kind() == {"embedding": 10240, "matmul": 8192, "norm": 256, "bias": 128, "index": 16}
    assert found.parameters == 40 * 64 + 64 + 64 * 32 + 32 and found.nbytes == 4 * found.parameters
    assert found.bits_per_weight == 32 and found.ratio_parameters == 1
    assert found.operators == {"Gather": 1, "LayerNormalization": 1, "MatMul": 1, "Add": 1, "Reshape": 1}


def test_what_is_left_is_listed_with_reasons() -> None:
    left = inventory(model(TEXT, **ARRAYS)).float_weights_left({"w": "kept by option keep"})
    assert [(name, nbytes) for name, nbytes, _ in left] == [("table", 10240), ("w", 8192), ("gamma", 256), ("b", 128)]
    reasons = {name: reason for name, _, reason in left}
    assert reasons["w"] == "kept by option keep" and "normalization" in reasons["gamma"] and "bias" in reasons["b"]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_quantized_bytes_are_those_of_the_scheme(bits: int) -> None:
    target = model(TEXT, **ARRAYS)
    target.metadata_props[PARAMETERS] = str(inventory(target).parameters)
    apply(QuantizeEmbeddings(bits=bits), target)
    apply(QuantizeWeights(bits=bits), target)
    found = inventory(target)
    scheme = Scheme(bits, 32, signed_scales=True)
    assert found.nbytes == scheme.nbytes(64, 40) + scheme.nbytes(64, 32) + 4 * (64 + 32)
    assert found.parameters == 40 * 64 + 64 + 64 * 32 + 32
    assert [name for name, _, _ in found.float_weights_left({})] == ["gamma", "b"]
    assert found.bytes_by_kind()["scale"] >= 2 * (40 + 32)


def test_weights_of_subgraphs_count() -> None:
    numbers = ", ".join(["1.0"] * 4)
    target = model(
        f"""g (float[n,2] x, bool c) => (float[n,2] y) {{ y = If (c) <
            then_branch = t () => (float[n,2] u) <float[2,2] w = {{{numbers}}}> {{ u = MatMul (x, w) }},
            else_branch = e () => (float[n,2] v) {{ v = Neg (x) }}> }}"""
    )
    assert inventory(target).parameters == 4 and inventory(target).operators == {"If": 1, "MatMul": 1, "Neg": 1}


def test_a_model_without_weights() -> None:
    found = inventory(model("g (float[n] x) => (float[n] y) { y = Neg (x) }"))
    assert (found.nbytes, found.bits_per_weight, found.ratio_parameters) == (0, 0, 1)


NUMBERS = "{" + ", ".join(["0.5"] * 12) + "}"
CONSTANT = f"w = Constant <value = float[3,4] {NUMBERS}> ()"
PLACES = {
    "Constant": f"g (float[n,3] x) => (float[n,4] y) {{ {CONSTANT}  y = MatMul (x, w) }}",
    "Constant in a branch": f"""g (float[n,3] x, float[n,4] z, bool c) => (float[n,4] y) {{ y = If (c) <
        then_branch = t () => (float[n,4] u) {{ {CONSTANT}  u = MatMul (x, w) }},
        else_branch = e () => (float[n,4] v) {{ v = Neg (z) }}> }}""",
    "function": f"""g (float[n,3] x) => (float[n,4] y) {{ a = local.f (x)  b = local.f (x)  y = Add (a, b) }}
        <domain: "local", opset_import: ["" : 21]> f (a) => (b) {{ {CONSTANT}  b = MatMul (a, w) }}""",
}


@pytest.mark.parametrize("place", PLACES)
def test_weights_count_wherever_they_lie(place: str) -> None:
    """Once, however often a function is called."""
    head = '<ir_version: 10, opset_import: ["" : 21, "local" : 1]>'
    target = ir.from_onnx_text(f"{head} {PLACES[place]}")
    found = inventory(target)
    assert found.parameters == 12 and found.nbytes == 48 and found.ratio_parameters == 1
    assert found.bytes_by_kind() == {"matmul": 48}
    assert [name for name, _, _ in found.float_weights_left({})] == ["w"]


def test_counts_stay_whatever_form_the_weights_had(tmp_path: Path) -> None:
    """Constant nodes become initializers on the way; the parameters are as many before and after."""
    initializers = handmade.model(f"{HEAD} g (float[n,64] x) => (float[n,64] y) {{ a = MatMul (x, w) y = Neg (a) }}")
    constants = onnx.ModelProto()
    constants.CopyFrom(initializers)
    weight = numpy_helper.from_array(normal(64, 64), "w")
    initializers.graph.initializer.append(weight)
    constants.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
    reports = [
        rewrite(handmade.write(proto, tmp_path / "in.onnx"), "w4a8-nearest") for proto in (initializers, constants)
    ]
    for report in reports:
        assert report.before.parameters == report.after.parameters == 64 * 64
        assert report.before.bits_per_weight == 32 and report.after.bits_per_weight < 5
        assert report.float_weights_left == []  # the scales, float16 and decoded in the graph, are no weights
