"""Weights in blocks: the graph computes with exactly the numbers that the block format gives."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx import registry
from bct_onnx.errors import InputModelError, UsageError
from bct_onnx.graph import weights
from bct_onnx.graph.canonical import canonical_text
from bct_onnx.graph.save import embedded
from bct_onnx.quant import quantize
from bct_onnx.quant.scheme import BITS, SCALES
from bct_onnx.quant.solve import Solver
from bct_onnx.runtime.statistics import KEY, ChannelStatistics
from passes.quantize_weights import QuantizeWeights, find, importance
from tests.passes.small import LEVELS, apply, close, model, normal, ops, outputs

FUSED = 2e-2
"""Optimized, ONNX Runtime turns blocks and a MatMul into MatMulNBits, which rounds activations to int8 by default."""

TOLERANCE = {"disabled": 1e-5, "all": FUSED}

MATMUL = "g (float[n,{k}] x) => (float[n,{n}] y) {{ y = MatMul (x, w) }}"


def matmul(k: int, n: int, seed: int = 0) -> ir.Model:
    return model(MATMUL.format(k=k, n=n), w=normal(k, n, seed=seed))


def expected(one: QuantizeWeights, w: np.ndarray[Any, Any], x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    product: np.ndarray[Any, Any] = x.astype(np.float64) @ quantize(w, one.scheme).dequantize().astype(np.float64)
    return product.astype(np.float32)


def allowed() -> list[Any]:
    made = []
    for bits in BITS:
        for scale in SCALES:
            for symmetric in (True, False):
                if symmetric or (scale == "two-level" and bits < 8):
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
    for level in LEVELS:
        close(outputs(target, x=x)[level][0], want.astype(np.float32), TOLERANCE[level])


def test_half_precision_keeps_its_type() -> None:
    w, x = normal(64, 32).astype(np.float16), normal(3, 64, seed=1).astype(np.float16)
    target = model("g (float16[n,64] x) => (float16[n,32] y) { y = MatMul (x, w) }", w=w)
    one = QuantizeWeights()
    apply(one, target)
    want = expected(one, w, x.astype(np.float32))
    for level in LEVELS:
        close(outputs(target, x=x)[level][0], want.astype(np.float16), max(4e-3, TOLERANCE[level]))


def test_a_shared_weight_is_stored_once() -> None:
    target = model(
        "g (float[n,64] x, float[n,64] z) => (float[n,32] a, float[n,32] b) { a = MatMul (x, w) b = MatMul (z, w) }",
        w=normal(64, 32),
    )
    applied = apply(QuantizeWeights(), target)
    assert len(applied.sites) == 1 and ops(target) == {"Cast": 1, "DequantizeLinear": 2, "MatMul": 2}
    assert sum(value.dtype == ir.DataType.INT4 for value in target.graph.initializers.values()) == 2
    x, z = normal(2, 64, seed=1), normal(2, 64, seed=2)
    for level in LEVELS:
        for got, fed in zip(outputs(target, x=x, z=z)[level], (x, z), strict=True):
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
        for level in LEVELS:
            close(outputs(target, x=x, c=np.array(condition))[level][0], expected(one, w, x), TOLERANCE[level])


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
    for level in LEVELS:
        close(outputs(target, x=x)[level][0], want, 3 * TOLERANCE[level])


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
    for level in LEVELS:
        np.testing.assert_allclose(outputs(target, x=x)[level][0], x @ w, rtol=0.2, atol=0)


def test_importance_behind_a_normalization() -> None:
    target = model(
        "g (float[n,64] x) => (float[n,32] y) { h = LayerNormalization (x, gamma, beta) y = MatMul (h, w) }",
        w=normal(64, 32), gamma=normal(64, seed=1), beta=normal(64, seed=2),
    )  # fmt: skip
    weighed = importance(target.graph[1])
    assert weighed is not None
    np.testing.assert_allclose(weighed, normal(64, seed=1) ** 2 + normal(64, seed=2) ** 2, rtol=1e-6)
    assert importance(matmul(64, 32).graph[0]) is None
    applied = apply(QuantizeWeights(importance="input"), target)
    plain = matmul(64, 32)
    (unweighed,) = apply(QuantizeWeights(), plain).sites
    assert (
        applied.sites[0].error is not None and unweighed.error is not None and applied.sites[0].error > unweighed.error
    )


def test_find_looks_through_a_transpose() -> None:
    target = model("g (float[n,64] x) => (float[n,32] y) { t = Transpose (w) y = MatMul (x, t) }", w=normal(32, 64))
    found = find(target.graph[1])
    assert found is not None and found.transposed and not found.reason
    apply(QuantizeWeights(), target)
    x = normal(2, 64, seed=1)
    for level in LEVELS:
        close(outputs(target, x=x)[level][0], expected(QuantizeWeights(), normal(32, 64).T, x), TOLERANCE[level])


def test_the_error_is_what_it_says() -> None:
    (site,) = apply(QuantizeWeights(), matmul(64, 32)).sites
    w = normal(64, 32)
    difference = w - quantize(w, QuantizeWeights().scheme).dequantize()
    assert site.error == pytest.approx(
        (float((difference.astype(float) ** 2).sum()), float((w.astype(float) ** 2).sum()))
    )


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 5},
        {"block": 0},
        {"symmetric": False, "scale": "float16"},
        {"symmetric": False, "bits": 8},
        {"damping": -0.1},
    ],
)
def test_options_that_do_not_go(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        QuantizeWeights(**options)


THREE = """g (float[n,64] x) => (float[n,32] a, float[n,32] b, float[n,32] c)
    { a = MatMul (x, one_q)  b = MatMul (x, two_q)  c = MatMul (x, two_k) }"""


def test_formats_of_single_weights() -> None:
    matrices = {name: normal(64, 32, seed=seed) for seed, name in enumerate(("one_q", "two_q", "two_k"))}
    target, x = model(THREE, **matrices), normal(3, 64, seed=9)
    one = QuantizeWeights(formats=("2/16:one_*", "32:*_k", "3/64:gone"))
    applied = apply(one, target)
    assert [site.note.split(" two-level")[0] for site in applied.sites] == ["int2 b16", "int4 b32"]
    assert [(left.name, left.nbytes) for left in applied.declined] == [("two_k", 64 * 32 * 4), ("3/64:gone", 0)]
    schemes = [dataclasses.replace(one.scheme, bits=2, block=16), one.scheme]
    want = [x @ quantize(matrices[name], scheme).dequantize() for name, scheme in zip(matrices, schemes, strict=False)]
    found = outputs(target, x=x)["disabled"]
    for got, wanted in zip(found, [*want, x @ matrices["two_k"]], strict=True):
        close(got, wanted, 1e-5)


def test_keep_wins_over_formats() -> None:
    target = model(THREE, **{name: normal(64, 32) for name in ("one_q", "two_q", "two_k")})
    applied = apply(QuantizeWeights(formats=("2:*",), keep=("two_*",)), target)
    assert [site.name for site in applied.sites] == ["one_q"]
    assert {left.reason for left in applied.declined} == {"kept by option keep"}


def test_formats_are_pipeline_text() -> None:
    text = "quantize-weights{formats=3/64:layer.0.*|32:/head/MatMul bits=2}"
    (one,) = registry.parse(text)
    assert one == QuantizeWeights(bits=2, formats=("3/64:layer.0.*", "32:/head/MatMul"))
    assert list(registry.parse(str(one))) == [one]
    with pytest.raises(UsageError, match="is no format"):
        registry.parse("quantize-weights{formats=3-64:a}")


def observed(target: ir.Model, *, random: bool = False) -> np.ndarray[Any, Any]:
    """Leave the statistics of correlated inputs at the first MatMul, whose input is computed; their XᵀX."""
    rows = normal(512, 64, seed=3) @ (normal(64, 64, seed=4) / 8 + np.eye(64, dtype=np.float32))
    value = target.graph[1].inputs[0]
    assert value is not None
    found = ChannelStatistics.of(rows, products=True)
    value.meta[KEY] = dataclasses.replace(found, random=random)
    assert found.products is not None
    return found.products


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_each_solver_is_better_at_the_output(bits: int) -> None:
    losses = []
    for solver in get_args(Solver):
        target = model("g (float[n,64] x) => (float[n,32] y) { h = Neg (x)  y = MatMul (h, w) }", w=normal(64, 32))
        products = observed(target)
        one = QuantizeWeights(bits=bits, solver=solver)
        apply(one, target)
        decoded = -outputs(target, x=np.eye(64, dtype=np.float32))["disabled"][0]
        error = normal(64, 32) - decoded
        losses.append(float(np.einsum("kn,kl,ln->", error, products, error)))
    assert losses[0] > 1.2 * losses[1] > 1.2 * 1.05 * losses[2]


@pytest.mark.parametrize(("random", "same"), [(False, 0.3 * 64 / 512), (True, 0.3)], ids=["text", "random tokens"])
def test_the_damping_follows_what_the_statistics_are_of(random: bool, same: float) -> None:
    texts = []
    for damping in (0.0, same, 1.0):
        target = model("g (float[n,64] x) => (float[n,32] y) { h = Neg (x)  y = MatMul (h, w) }", w=normal(64, 32))
        observed(target, random=random)
        apply(QuantizeWeights(solver="gptq", damping=damping), target)
        texts.append(embedded(target).SerializeToString(deterministic=True))
    assert texts[0] == texts[1] != texts[2]


def test_a_solver_without_products_says_so() -> None:
    target = matmul(64, 32)
    (site,) = apply(QuantizeWeights(solver="refined"), target).sites
    assert site.note.endswith("nearest: no XᵀX")
    plain = matmul(64, 32)
    (site,) = apply(QuantizeWeights(), plain).sites
    assert "nearest" not in site.note and canonical_text(plain) == canonical_text(target)
