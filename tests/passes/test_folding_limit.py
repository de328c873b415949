"""What decodes a weight is folded when a session is created, also where the weight is as large as can be."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from bct_onnx.graph.save import embedded
from bct_onnx.registry import parse
from bct_onnx.runtime.session import runnable
from passes import lower_weights
from tests.passes.small import apply, close, model, normal, ops, outputs

K, N = 64, 512
PRODUCT = "g (float[n,64] x) => (float[n,512] y) { y = MatMul (x, w) }"
TIED = """g (int64[n] ids) => (float[n,512] y) {
    x = Gather (w, ids)
    turned = Transpose <perm = [1, 0]> (w)
    y = MatMul (x, turned)
}"""


def left(lowered: ir.Model, limit: int, folder: Path) -> set[str]:
    """Operators that run where ONNX Runtime folds values of up to ``limit`` bytes."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(limit))
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(embedded(runnable(lowered)).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node}


def lowered(text: str, weights: str, *more: str) -> ir.Model:
    shape = (N, K) if text == TIED else (K, N)
    target = model(text, w=normal(*shape))
    for one in parse(",".join((weights, *more, "lower-weights,clean-up"))):
        apply(one, target)
    return target


@pytest.mark.parametrize("text", [PRODUCT, TIED], ids=["product", "tied"])
@pytest.mark.parametrize(
    "options", ["{bits=2}", "{bits=3}", "", "{bits=8}", "{bits=8 reduce-range=false}", "{block=64x64 scale=shift}"]
)
def test_an_int8_matrix_takes_a_byte_per_value_at_every_step(text: str, options: str, tmp_path: Path) -> None:
    embeddings = [f"quantize-embeddings{'{block=64}' if 'shift' in options else options}"] if text == TIED else []
    target = lowered(text, ",".join([*embeddings, f"quantize-weights{options}"]), "quantize-activations")
    assert left(target, K * N, tmp_path) == left(target, 1 << 30, tmp_path)


@pytest.mark.parametrize("bits", [4, 8])
def test_floats_beyond_the_limit_are_not_decoded_on_every_call(
    bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = lowered(PRODUCT, f"quantize-weights{{bits={bits}}}")
    assert left(below, 4 * K * N, tmp_path) == {"MatMul"}
    monkeypatch.setattr(lower_weights, "FOLDED", 4 * K * N - 1)
    beyond = lowered(PRODUCT, f"quantize-weights{{bits={bits}}}")
    assert left(beyond, 4 * K * N - 1, tmp_path) == {"MatMulNBits"}
    got, want = (outputs(one, x=normal(5, K))["all"][0] for one in (beyond, below))
    close(got, want, 1e-5 if bits == 4 else 1e-2)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_eight_bits_are_multiplied_by_the_fast_kernel(bits: int) -> None:
    target = model(PRODUCT, w=normal(K, N))
    for one in parse(f"quantize-weights{{bits={bits}}},lower-nbits"):
        apply(one, target)
    assert "MatMulNBits" in ops(target)
    (node,) = (node for node in target.graph if node.op_type == "MatMulNBits")
    assert node.attributes.get_int("accuracy_level", 0) == (4 if bits == 8 else 0)
