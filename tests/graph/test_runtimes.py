"""Which versions of ONNX Runtime run a model, by the tables of their kernels."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx import targets
from bct_onnx.errors import TargetError, UsageError
from bct_onnx.graph import functions, kernels, runtimes, tensors
from bct_onnx.graph.runtimes import Use
from bct_onnx.pipeline import Pipeline
from bct_onnx.refusals import judged
from passes.lower_runtime import LowerRuntime


def _model(body: str, opset: int = 21, inputs: str = "float[2,32] x", ir_version: int = 10) -> ir.Model:
    head = f'<ir_version: {ir_version}, opset_import: ["": {opset}, "com.microsoft": 1, "ai.bct": 1]>'
    return ir.from_onnx_text(f"{head} g ({inputs}) => (y) {{ {body} }}")


def _version(model: ir.Model) -> str:
    lowest = runtimes.lowest(model)
    return "" if lowest is None else lowest.version


@pytest.mark.parametrize(
    ("body", "opset", "version"),
    [
        ("y = Relu (x)", 21, "1.18"),
        ("y = Relu (x)", 22, "1.21"),
        ("y = Relu (x)", 23, "1.23"),
        ("y = Wobble (x)", 21, ""),
        ("z = Cast <to = 3> (x)  w = Cast <to = 22> (z)  y = Cast <to = 3> (w)", 21, "1.23"),
        ("y = com.microsoft.MatMulNBits <K = 32, N = 4, bits = 8, block_size = 32> (x, x, x)", 21, ""),
    ],
)
def test_the_oldest_runtime(body: str, opset: int, version: str) -> None:
    assert _version(_model(body, opset)) == version


def test_a_reason_says_what_the_version_before_lacks() -> None:
    lowest = runtimes.lowest(_model("z = Cast <to = 22> (x)  y = Cast <to = 1> (z)"))
    assert lowest is not None and lowest.reason.startswith("Cast: ONNX Runtime 1.22 has it for")


@pytest.mark.parametrize(
    ("use", "version", "reason"),
    [
        (Use("com.microsoft::MatMulNBits", ("float", "uint8", "float"), (("bits", 8),)), "1.20", "bits of 4, not 8"),
        (Use("com.microsoft::MatMulNBits", ("float",) * 6, (("bits", 4),)), "1.18", "no input 6"),
        (Use("com.microsoft::GatherBlockQuantized", ("int4",), (("bits", 4),)), "1.20", "no attribute 'bits'"),
        (Use("DequantizeLinear", ("int8", "float"), (("block_size", 32),)), "1.18", "block_size of 0, not 32"),
        (Use("DequantizeLinear", ("int8", "float"), (("block_size", 32),)), "1.19", ""),
        (Use("QuantizeLinear", ("float", "float", "uint8"), ()), "1.20", ""),
        (Use("MatMul", ("float16", "float16"), ()), "1.20", ""),
        (Use("Gelu", ("double",), ()), "1.20", ""),
    ],
)
def test_what_a_version_lacks(use: Use, version: str, reason: str) -> None:
    found = runtimes.lacks(kernels.runtime(version), use, 21)
    assert bool(found) == bool(reason) and reason in found


@pytest.mark.parametrize("name", functions.BYTES)
def test_every_sum_of_bytes_in_functions_is_known(name: str) -> None:
    """Widened, no function of stored weights adds or multiplies bytes, which 1.18 cannot."""
    model = _model("y = Relu (x)")
    functions.use(model, name)
    sums = [node for node in model.functions["ai.bct", name, ""] if node.op_type in ("Add", "Sub", "Mul")]
    bytes_ = {node.outputs[0].name for node in sums} & functions.BYTES[name].keys()
    assert bytes_ == functions.BYTES[name].keys()
    LowerRuntime(version="1.18")(model)
    casts = [node for node in model.functions["ai.bct", name, ""] if node.attributes.get_int("to", 0) == 6]
    assert len(casts) >= 2 * len(bytes_)


def _decoded() -> ir.Model:
    """A weight of 4 bits that is decoded to int8."""
    model = _model("y = Relu (x)", inputs="int8[64,6] x")
    domain = functions.use(model, "DecodeInt8")
    rng = np.random.default_rng(0)
    codes = tensors.constant(model.graph, "codes", rng.integers(-8, 8, (64, 6)).astype(ml_dtypes.int4))
    factors = tensors.constant(model.graph, "factors", rng.integers(-8, 8, (2, 6)).astype(ml_dtypes.int4))
    relu = model.graph[0]
    decode = ir.node("DecodeInt8", [codes, factors], {"rows": 32, "columns": 1}, domain=domain)
    model.graph.insert_before(relu, decode)
    relu.replace_input_with(0, decode.outputs[0])
    return model


def test_few_bit_constants_go_down_to_the_oldest_runtime() -> None:
    model = _decoded()
    assert _version(model) == "1.23"
    LowerRuntime(version="1.18")(model)
    assert _version(model) == "1.18"
    assert {value.dtype for value in model.graph.initializers.values()} == {ir.DataType.UINT8}


def test_a_target_for_an_older_runtime() -> None:
    target = targets.find("ort-cpu@1.20")
    assert target.runtime == "1.20" and "lower-runtime{version=1.20},remove-padding" in target.lowering
    assert targets.find("ort-cpu@1.23").lowering == targets.find("ort-cpu").lowering
    assert targets.settings({"bct_onnx.target": "portable@1.20"}) == targets.find("portable").session


@pytest.mark.parametrize(
    ("name", "version", "opset", "why"),
    [
        ("webgpu", "1.20", None, "has no older runtimes"),
        ("ort-cpu", "1.17", None, "is not known"),
        ("ort-cpu", None, 20, "out of range"),
        ("ort-cpu", "1.20", 21, "cannot go together"),
    ],
)
def test_refusals_of_a_runtime(name: str, version: str | None, opset: int | None, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        targets.for_runtime(name, version, opset)


def test_what_an_older_runtime_does_not_run_is_refused_with_the_one_that_does() -> None:
    text = "float[n,2,s,8] x"
    model = _model("y = Attention <softcap = 2.0> (x, x, x)", 23, text, 11)
    with pytest.raises(TargetError, match=r"1\.20 cannot run the result") as refused:
        judged(model, "ort-cpu@1.20", Pipeline(()))
    assert "--min-runtime 1.23 is the lowest" in str(refused.value)


@pytest.mark.whole
@pytest.mark.parametrize("version", ["1.18", "1.20", "1.22"])
def test_the_default_preset_goes_down(version: str, two_layers: Callable[[str, str], ir.Model]) -> None:
    assert _version(two_layers("bct-plus", f"ort-cpu@{version}")) <= version
