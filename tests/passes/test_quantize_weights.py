"""Weights in blocks: the graph computes with exactly the numbers that the block format gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.errors import InputModelError, UsageError
from bct_onnx.forms import weights
from bct_onnx.forms.linear import Linear
from bct_onnx.graph.save import embedded
from bct_onnx.quant import Error, quantize
from bct_onnx.quant.scheme import BITS, SCALES
from passes.quantize_weights import QuantizeWeights
from tests.passes.small import MATMUL, apply, close, matmul, model, normal, ops, outputs

FUSED = 2e-2
"""Optimized, ONNX Runtime turns blocks and a MatMul into MatMulNBits, which rounds activations to int8 by default."""

TOLERANCE = {"disabled": 1e-5, "all": FUSED}


def expected(one: QuantizeWeights, w: np.ndarray[Any, Any], x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    product: np.ndarray[Any, Any] = x.astype(np.float64) @ quantize(w, one.scheme).dequantize().astype(np.float64)
    return product.astype(np.float32)


def allowed() -> list[Any]:
    made = []
    for bits in BITS:
        for scale in SCALES:
            for symmetric in (True, False):
                if symmetric or (scale == "two-level" and bits < 5):
                    made.append(pytest.param(bits, scale, symmetric, id=f"{bits}-{scale}-{symmetric}"))
    return made


@pytest.mark.parametrize(("bits", "scale", "symmetric"), allowed())
@pytest.mark.parametrize(
    ("shape", "block"), [((64, 32), 32), ((50, 33), 16), ((100, 70), (64, 64)), ((70, 40), (16, 3))], ids=str
)
def test_equals_the_block_format(bits: int, scale: Any, symmetric: bool, shape: tuple[int, int], block: Any) -> None:
    k, n = shape
    one = QuantizeWeights(bits=bits, block=block, scale=scale, symmetric=symmetric)
    target, x = matmul(k, n), normal(5, k, seed=1)
    apply(one, target)
    want = expected(one, normal(k, n), x)
    found = outputs(target, x=x)
    close(found["disabled"][0], want, 1e-5)
    close(found["all"][0], want, FUSED)


@pytest.mark.parametrize("reduce_range", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_decoded_integers_stay_in_range(bits: int, reduce_range: bool) -> None:
    w = normal(64, 32) * np.where(np.arange(32) % 5, 1, 100).astype(np.float32)
    decoded = quantize(w, QuantizeWeights(bits=bits, reduce_range=reduce_range).scheme).int8()
    assert np.abs(decoded.astype(int)).max() <= (64 if reduce_range else 127)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("beta", [1.0, 2.0])
@pytest.mark.parametrize("bias", [True, False])
def test_gemm(transposed: int, alpha: float, beta: float, bias: bool) -> None:
    w, c, x = normal(64, 32), normal(32, seed=2), normal(3, 64, seed=1)
    target = model(
        f"""g (float[n,64] x) => (float[n,32] y)
        {{ y = Gemm <transB = {transposed}, alpha = {alpha}, beta = {beta}> (x, w{", c" if bias else ""}) }}""",
        w=np.ascontiguousarray(w.T) if transposed else w,
        **({"c": c} if bias else {}),
    )
    one = QuantizeWeights(bits=8)
    apply(one, target)
    want = alpha * expected(one, w, x) + (beta * c if bias else 0)
    for level, values in outputs(target, x=x).items():
        close(values[0], want.astype(np.float32), TOLERANCE[level])


def test_half_precision_keeps_its_type() -> None:
    w, x = normal(64, 32).astype(np.float16), normal(3, 64, seed=1).astype(np.float16)
    target = model("g (float16[n,64] x) => (float16[n,32] y) { y = MatMul (x, w) }", w=w)
    one = QuantizeWeights()
    apply(one, target)
    want = expected(one, w, x.astype(np.float32))
    for level, values in outputs(target, x=x).items():
        close(values[0], want.astype(np.float16), max(4e-3, TOLERANCE[level]))


def test_a_shared_weight_is_stored_once() -> None:
    target = model(
        "g (float[n,64] x, float[n,64] z) => (float[n,32] a, float[n,32] b) { a = MatMul (x, w) b = MatMul (z, w) }",
        w=normal(64, 32),
    )
    applied = apply(QuantizeWeights(), target)
    assert len(applied.sites) == 1 and ops(target) == {"Cast": 1, "DequantizeLinear": 2, "MatMul": 2}
    assert sum(value.dtype == ir.DataType.INT4 for value in target.graph.initializers.values()) == 2
    x, z = normal(2, 64, seed=1), normal(2, 64, seed=2)
    for level, values in outputs(target, x=x, z=z).items():
        for got, fed in zip(values, (x, z), strict=True):
            close(got, expected(QuantizeWeights(), normal(64, 32), fed), TOLERANCE[level])


@pytest.mark.parametrize("inside", [True, False], ids=["own weight", "weight of the main graph"])
def test_if_branches(inside: bool) -> None:
    own = "<float[64,32] w2 = {" + ", ".join(str(v) for v in normal(64, 32, seed=3).ravel()) + "}>" if inside else ""
    target = model(
        f"""g (float[n,64] x, bool c) => (float[n,32] y, float[n,32] also) {{
            also = MatMul (x, w)
            y = If (c) <then_branch = t () => (float[n,32] u) {own} {{ u = MatMul (x, {"w2" if inside else "w"}) }},
                        else_branch = e () => (float[n,32] v) {{ v = MatMul (x, w) }}> }}""",
        w=normal(64, 32),
    )
    one, x = QuantizeWeights(), normal(2, 64, seed=1)
    assert len(apply(one, target).sites) == 1 + inside
    chosen = normal(64, 32, seed=3) if inside else normal(64, 32)
    for condition, w in ((True, chosen), (False, normal(64, 32))):
        for level, values in outputs(target, x=x, c=np.array(condition)).items():
            close(values[0], expected(one, w, x), TOLERANCE[level])


def test_loop_body() -> None:
    target = model(
        """g (float[n,64] x) => (float[n,64] y)
        <int64 times = {3}, bool yes = {1}> {
            first = MatMul (x, w)
            y = Loop (times, yes, first) <body = b (int64 i, bool c, float[n,64] h) => (bool d, float[n,64] o)
                { d = Identity (c) o = MatMul (h, w) }> }""",
        w=normal(64, 64, scale=0.1),
    )
    one, x = QuantizeWeights(), normal(2, 64, seed=1)
    assert len(apply(one, target).sites) == 1
    want = x
    for _ in range(4):
        want = expected(one, normal(64, 64, scale=0.1), want)
    for level, values in outputs(target, x=x).items():
        close(values[0], want, 3 * TOLERANCE[level])


def test_an_old_weight_that_nobody_needs_is_gone_when_saved() -> None:
    target = matmul(64, 32)
    apply(QuantizeWeights(), target)
    assert "w" not in {tensor.name for tensor in embedded(target).graph.initializer}


def test_what_is_written_is_read_back() -> None:
    for one in (
        QuantizeWeights(),
        QuantizeWeights(bits=3, block=(16, 4)),
        QuantizeWeights(symmetric=False),
        QuantizeWeights(bits=8),
    ):
        target = matmul(64, 32)
        apply(one, target)
        (node,) = (node for node in target.graph if node.op_type == "MatMul")
        stored = weights.read(node.inputs[1])
        assert stored is not None and stored.k == 64 and not stored.transposed
    float_blocks = matmul(64, 32)
    apply(QuantizeWeights(scale="float16"), float_blocks)
    assert weights.read(float_blocks.graph[-1].inputs[1]) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    w = normal(64, 32)
    w[3, 4] = value
    with pytest.raises(InputModelError, match="NaN or Inf"):
        QuantizeWeights()(model(MATMUL.format(k=64, n=32), w=w))


@pytest.mark.parametrize(
    "w", [np.zeros((64, 32), np.float32), np.full((64, 32), 1e-30, np.float32)], ids=["zeros", "tiny"]
)
def test_extreme_weights(w: np.ndarray[Any, Any]) -> None:
    target = model(MATMUL.format(k=64, n=32), w=w)
    apply(QuantizeWeights(), target)
    x = np.ones((1, 64), np.float32)
    for (got,) in outputs(target, x=x).values():
        np.testing.assert_allclose(got, x @ w, rtol=0.2, atol=0)


def test_importance_behind_a_normalization() -> None:
    target = model(
        "g (float[n,64] x) => (float[n,32] y) { h = LayerNormalization (x, gamma, beta) y = MatMul (h, w) }",
        w=normal(64, 32), gamma=normal(64, seed=1), beta=normal(64, seed=2),
    )  # fmt: skip
    linear, unnormalized = Linear.of(target.graph[1]), Linear.of(matmul(64, 32).graph[0])
    assert linear is not None and unnormalized is not None
    weighed = linear.importance()
    assert weighed is not None
    np.testing.assert_allclose(weighed, normal(64, seed=1) ** 2 + normal(64, seed=2) ** 2, rtol=1e-6)
    assert unnormalized.importance() is None
    applied = apply(QuantizeWeights(importance="input"), target)
    plain = matmul(64, 32)
    (unweighed,) = apply(QuantizeWeights(), plain).sites
    error = applied.sites[0].error
    assert error is not None and unweighed.error is not None and error.noise > unweighed.error.noise


def test_find_looks_through_a_transpose() -> None:
    target = model("g (float[n,64] x) => (float[n,32] y) { t = Transpose (w) y = MatMul (x, t) }", w=normal(32, 64))
    found = Linear.of(target.graph[1])
    assert found is not None and found.transposed and not found.refusal
    apply(QuantizeWeights(), target)
    x = normal(2, 64, seed=1)
    for level, values in outputs(target, x=x).items():
        close(values[0], expected(QuantizeWeights(), normal(32, 64).T, x), TOLERANCE[level])


def test_the_error_is_what_it_says() -> None:
    (site,) = apply(QuantizeWeights(), matmul(64, 32)).sites
    w = normal(64, 32)
    wanted = Error.of(w, quantize(w, QuantizeWeights().scheme).dequantize())
    assert site.error is not None
    assert (site.error.noise, site.error.signal) == pytest.approx((wanted.noise, wanted.signal))


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 7},
        {"block": 0},
        {"symmetric": False, "scale": "float16"},
        {"symmetric": False, "bits": 8},
        {"damping": -0.1},
    ],
)
def test_options_that_do_not_go(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        QuantizeWeights(**options)
