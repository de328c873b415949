import numpy as np
import pytest

from bct_onnx.integer import KERNELS, Kernel
from bct_onnx.integer.attention import (
    TALLEST,
    WEIGHT_ERROR,
    attention_bound,
    attention_weights,
    exact_attention,
    misplaced,
)
from bct_onnx.integer.attention_ort_cpu import MASKED as ORT_CPU
from bct_onnx.integer.softmax import exact_softmax
from tests.integer import harness
from tests.integer.harness import Array, random_codes, scale

PLAIN, MASKED = KERNELS["IntegerAttention"], KERNELS["IntegerMaskedAttention"]
BOTH = pytest.mark.parametrize("kernel", [PLAIN, MASKED], ids=lambda kernel: str(kernel.name))


def bell(*shape: int, seed: int = 0, width: float = 30) -> Array:
    """Codes as activations have them: normal around 128."""
    found: Array = np.clip(np.rint(np.random.default_rng(seed).normal(128, width, shape)), 0, 255).astype(np.uint8)
    return found


def feeds(kernel: Kernel, q: Array, k: Array, v: Array, q_scale: float = 0.05, /, **more: Array) -> dict[str, Array]:
    given = {"q": q, "k": k, "v": v, "keep": np.ones((1, 1, 1, k.shape[2]), np.uint8)}
    given |= {f"{name}_scale": scale(0.05) for name in "kvy"} | {"q_scale": scale(q_scale), "t_scale": scale(0.1)}
    given |= {f"{name}_zero_point": np.array(128, np.uint8) for name in "qkvyt"}
    given |= {"qk_scale": scale(q.shape[-1] ** -0.5)} | more
    return {name: given[name] for name in kernel.inputs}


def exact_and_moved(given: dict[str, Array]) -> tuple[Array, Array]:
    """The exact context, and the share of weights that the bound allows to be misplaced."""
    real = {n: (given[n] - float(given[f"{n}_zero_point"])) * float(given[f"{n}_scale"]) for n in "qkv"}
    scores = real["q"] @ real["k"].swapaxes(-1, -2) * float(given["qk_scale"])
    keep = np.broadcast_to(given.get("keep", np.array(1)), scores.shape) != 0
    moved = misplaced(exact_softmax(scores, keep), keep.sum(-1, keepdims=True))
    return exact_attention(real["q"], real["k"], real["v"], float(given["qk_scale"]), keep), moved


def holds(given: dict[str, Array], y: Array) -> None:
    exact, moved = exact_and_moved(given)
    zero, step = float(given["y_zero_point"]), np.float64(given["y_scale"])
    wanted = np.clip(exact, -zero * step, (255 - zero) * step)
    q, k, v, qk, y_scale = (given[f"{name}_scale"].astype(np.float64) for name in ("q", "k", "v", "qk", "y"))
    assert np.all(np.abs((y - zero) * step - wanted) <= attention_bound(q, k, v, qk, y_scale, moved) * (1 + 1e-6))


@BOTH
def test_engines_agree_and_the_bound_holds(kernel: Kernel) -> None:
    keep = np.random.default_rng(3).integers(0, 2, (2, 1, 9, 17)).astype(np.uint8)
    for q_scale in (1e-5, 1e-3, 0.02, 0.5, 5.0):
        for zero, other in ((128, 128), (0, 255), (255, 0)):
            zeros = {"v_zero_point": np.array(zero, np.uint8), "y_zero_point": np.array(other, np.uint8)}
            q, k, v = (random_codes(2, 3, n, 8, seed=n) for n in (9, 17, 17))
            given = feeds(kernel, q, k, v, q_scale, keep=keep, y_scale=scale(0.02), **zeros)
            y = harness.agree(kernel, given, static=True, levels=("all",))
            if 1e-3 <= q_scale <= 0.5:
                holds(given, y)


@BOTH
@pytest.mark.parametrize("y_scale", [0.1, 0.05, 0.0123, 0.00625])
def test_scales_of_the_context(kernel: Kernel, y_scale: float) -> None:
    given = feeds(
        kernel, bell(1, 2, 30, 32), bell(1, 2, 64, 32, seed=1), bell(1, 2, 64, 32, seed=2), y_scale=scale(y_scale)
    )
    holds(given, harness.agree(kernel, given))


def test_equal_values_come_out_whatever_the_weights() -> None:
    for code in range(0, 256, 5):
        v = np.full((1, 1, 40, 3), code, np.uint8)
        given = feeds(PLAIN, bell(1, 1, 7, 16), bell(1, 1, 40, 16, seed=1), v)
        assert np.all(harness.refer(PLAIN, given) == code)


def test_every_weight_code() -> None:
    for step in (1e-6, 1e-4, 4e-4, 1 / 256, 0.03, 0.25):
        distance = np.unique(np.rint(np.linspace(0, min(8 / step, 2**27), 200_000))).astype(np.int64)
        scores = -distance[None]
        weights = attention_weights(scores, scale(step), np.ones(scores.shape, bool))
        assert np.abs(weights - TALLEST * np.exp(scores * float(np.float32(step)))).max() <= WEIGHT_ERROR
        assert weights[0, 0] == TALLEST
        assert weights.min() == 0
        assert np.all(np.diff(weights[0]) <= 0)


@pytest.mark.parametrize("extreme", [0, 255])
def test_long_sums_do_not_overflow(extreme: int) -> None:
    q = np.full((1, 1, 1, 4096), 255, np.uint8)
    k = np.full((1, 1, 3, 4096), extreme, np.uint8)
    zeros = {f"{name}_zero_point": np.array(0, np.uint8) for name in "qkvy"}
    for zero in (0, 255):
        ends = zeros | {"k_zero_point": np.array(zero, np.uint8)}
        given = feeds(MASKED, q, k, random_codes(1, 1, 3, 2), **ends, keep=np.array([1, 1, 0], np.uint8))
        holds(given, harness.agree(MASKED, given, levels=("all",)))
    k, v = np.full((1, 1, 8192, 4), 128, np.uint8), np.full((1, 1, 8192, 3), extreme, np.uint8)
    for zero in (0, 255):
        ends = {"v_zero_point": np.array(zero, np.uint8), "y_zero_point": np.array(255 - zero, np.uint8)}
        for y_scale in (0.1, 0.05, 0.00625):
            given = feeds(PLAIN, bell(1, 1, 2, 4), k, v, y_scale=scale(y_scale), **ends)
            holds(given, harness.agree(PLAIN, given, levels=("all",)))


def test_masked_columns_have_no_influence() -> None:
    for seed, q_scale in ((0, 0.001), (1, 0.05), (2, 3.0)):
        q, k, v = (bell(2, 2, n, 16, seed=seed + n, width=60) for n in (5, 11, 11))
        alone = harness.agree(PLAIN, feeds(PLAIN, q, k, v, q_scale), levels=("all",))
        more_k, more_v = (np.concatenate([x, random_codes(2, 2, 40, 16, seed=seed)], 2) for x in (k, v))
        keep = (np.arange(51) < 11).astype(np.uint8)[None, None, None]
        padded = harness.agree(MASKED, feeds(MASKED, q, more_k, more_v, q_scale, keep=keep))
        np.testing.assert_array_equal(padded, alone)
        single = harness.refer(MASKED, feeds(MASKED, q[1:], more_k[1:], more_v[1:], q_scale, keep=keep))
        np.testing.assert_array_equal(single[0], alone[1])


def test_causal() -> None:
    q, k, v = (bell(1, 2, 12, 8, seed=seed) for seed in range(3))
    keep = np.tril(np.ones((1, 1, 12, 12), np.uint8))
    y = harness.agree(MASKED, feeds(MASKED, q, k, v, keep=keep), levels=("all",))
    np.testing.assert_array_equal(y[:, :, 0], v[:, :, 0])
    for row in range(12):
        shorter = feeds(PLAIN, q[:, :, row : row + 1], k[:, :, : row + 1], v[:, :, : row + 1])
        np.testing.assert_array_equal(y[:, :, row], harness.refer(PLAIN, shorter)[:, :, 0])


@pytest.mark.parametrize("kernel", [MASKED, ORT_CPU], ids=lambda kernel: str(kernel.name))
def test_rows_that_keep_nothing_give_the_zero_point(kernel: Kernel) -> None:
    q, k, v = (bell(1, 2, 6, 8, seed=seed) for seed in range(3))
    keep = np.ones((1, 1, 6, 6), np.uint8)
    keep[..., 2, :] = 0
    given = feeds(kernel, q, k, v, keep=keep, y_zero_point=np.array(77, np.uint8))
    y = harness.evaluate(harness.model(kernel, given), given)
    np.testing.assert_array_equal(y, harness.refer(kernel, given))
    assert np.all(y[:, :, 2] == 77)
    assert np.any(y[:, :, 3] != 77)


def test_keys_and_values_shared_by_heads() -> None:
    q, k, v = bell(2, 4, 5, 8), bell(2, 1, 9, 8, seed=1), bell(2, 1, 9, 8, seed=2)
    every_k, every_v = (np.ascontiguousarray(np.broadcast_to(x, (2, 4, 9, 8))) for x in (k, v))
    shared = harness.agree(PLAIN, feeds(PLAIN, q, k, v), levels=("all",))
    np.testing.assert_array_equal(shared, harness.refer(PLAIN, feeds(PLAIN, q, every_k, every_v)))


def test_quality() -> None:
    """As good as its output codes allow within 8 dB, where codes of 1/255 for the probabilities lose 20."""
    q, k, v = (bell(1, 2, 128, 32, seed=seed) for seed in range(3))
    for q_scale, least in ((0.01, 36), (0.03, 26), (0.06, 31), (0.1, 33)):
        given = feeds(PLAIN, q, k, v, q_scale)
        exact, _ = exact_and_moved(given)
        given["y_scale"] = scale(max(float(np.abs(exact).max()) / 127, 0.00625))
        error = (harness.refer(PLAIN, given) - 128.0) * float(given["y_scale"]) - exact
        assert 10 * np.log10(np.mean(exact**2) / np.mean(error**2)) > least


@BOTH
def test_integer_between_codes_and_codes(kernel: Kernel) -> None:
    harness.integer(kernel)


@BOTH
@harness.ZERO_DIVISOR
def test_wrong_constants_are_noticed(kernel: Kernel) -> None:
    keep = np.ones((1, 1, 5, 7), np.uint8) * np.array([1, 1, 0, 1, 1, 1, 1], np.uint8)
    keep[:, :, 4] = 0
    q, k, v = (random_codes(1, 1, n, 4, seed=n) for n in (5, 7, 7))
    close_q, close_k = (x // 43 + 125 for x in (q, k))
    cases = [
        feeds(kernel, q, k, v, 0.02, keep=keep, y_scale=scale(0.0125)),
        feeds(kernel, q, k, v, 3e-4, keep=keep, y_scale=scale(0.2)),
        feeds(kernel, close_q, close_k, v, 60.0, keep=keep),
        feeds(kernel, bell(1, 1, 3, 4), bell(1, 1, 900, 4, seed=1), bell(1, 1, 900, 4, seed=2)),
    ]
    far_q, far_k = (random_codes(1, 1, n, 4096, seed=n) for n in (1, 7))
    far = feeds(kernel, far_q, far_k, v, 1e-7, y_scale=scale(0.0125))
    far |= {"q_zero_point": np.array(0, np.uint8), "k_zero_point": np.array(255, np.uint8)}
    cases.append(far)
    # -1 stays as it is; the weighted sum is finer than needed; without a mask no sum is 0.
    same = {"IntegerAttentionWeights/last", "IntegerWeightedMean/last", "IntegerWeightedMean/fill"}
    harness.wrong_constants_are_noticed(
        kernel, cases, same | ({"IntegerWeightedMean/one"} if kernel is PLAIN else set())
    )


@pytest.mark.parametrize("t_scale", [0.08, 0.1, 0.3])
def test_ort_cpu_is_near_the_portable_one(t_scale: float) -> None:
    q, k, v = (bell(2, 3, 60, 32, seed=seed) for seed in range(3))
    keep = np.random.default_rng(4).integers(0, 2, (2, 1, 60, 60)).astype(np.uint8)
    scores = {"t_scale": scale(t_scale), "t_zero_point": np.array(130, np.uint8)}
    given = feeds(ORT_CPU, q, k, v, 0.01, keep=keep, **scores)
    y = harness.evaluate(harness.model(ORT_CPU, given), given)
    np.testing.assert_array_equal(y, harness.refer(ORT_CPU, given))
    portable = harness.refer(MASKED, feeds(MASKED, q, k, v, 0.01, keep=keep)).astype(int)
    assert np.abs(portable - y).max() <= (5 if t_scale > 0.2 else 2)


def test_ort_cpu_masked_columns_have_no_influence() -> None:
    q, k, v = (bell(2, 2, n, 16, seed=n) for n in (5, 11, 11))
    short = harness.refer(ORT_CPU, feeds(ORT_CPU, q, k, v))
    more_k, more_v = (np.concatenate([x, random_codes(2, 2, 40, 16)], 2) for x in (k, v))
    keep = (np.arange(51) < 11).astype(np.uint8)[None, None, None]
    given = feeds(ORT_CPU, q, more_k, more_v, keep=keep)
    np.testing.assert_array_equal(harness.evaluate(harness.model(ORT_CPU, given), given), short)
