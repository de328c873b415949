"""GPTQ and refinement: what they promise for every scheme, and what they gain."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given

from bct_onnx.quant import Blocks, Scheme, quantize
from bct_onnx.quant import gptq as gptq_module
from bct_onnx.quant.gptq import gptq
from bct_onnx.quant.refine import refine
from tests.quant.strategies import Matrix, normal, schemes

DAMPING = 0.1


def inputs(k: int, seed: int = 0, *, rows: int = 4) -> npt.NDArray[Any]:
    """XᵀX of correlated inputs with channels of unlike size, [k, k]."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((k, k)) / np.sqrt(k) + np.eye(k) * 0.5
    x = rng.standard_normal((rows * k, k)) @ mixed * np.exp(rng.standard_normal(k) / 2) + rng.standard_normal(k) / 2
    products: npt.NDArray[Any] = x.T @ x
    return products


def loss(weight: Matrix, blocks: Blocks, hessian: npt.NDArray[Any], damping: float = DAMPING) -> float:
    """tr(Eᵀ H E) with the damped H."""
    full = hessian + damping * np.diag(hessian).mean() * np.eye(len(hessian))
    error = (weight - blocks.dequantize()).astype(np.float64)
    return float(np.einsum("kn,kn->", error, full @ error))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Matrix, Scheme, npt.NDArray[Any]]:
    k, n = draw(st.integers(1, 40)), draw(st.integers(1, 12))
    seed = draw(st.integers(0, 99))
    weight = normal(k, n, seed) * np.float32(10.0 ** draw(st.integers(-3, 3)))
    return weight, draw(schemes()), inputs(k, seed)


@given(problems())
def test_results_are_blocks_of_the_same_scheme(problem: tuple[Matrix, Scheme, npt.NDArray[Any]]) -> None:
    weight, scheme, hessian = problem
    start = quantize(weight, scheme)
    for blocks in (gptq(weight, start, hessian), refine(weight, start, hessian)):
        assert blocks.codes.dtype == start.codes.dtype
        assert blocks.codes.shape == start.codes.shape
        assert scheme.code_min <= blocks.codes.min()
        assert blocks.codes.max() <= scheme.code_max
        assert blocks.nbytes == start.nbytes
        assert blocks.scale.shape == start.scale.shape
        if blocks.multipliers is not None and start.multipliers is not None:
            assert blocks.multipliers.dtype == start.multipliers.dtype
            assert blocks.multipliers.shape == start.multipliers.shape
            assert scheme.multiplier_min <= blocks.multipliers.min()
            assert blocks.multipliers.max() <= scheme.multiplier_max
            assert blocks.multipliers.all()
        if scheme.scale == "shift" and blocks.multipliers is not None:
            assert set(np.unique(blocks.multipliers)) <= {1, 2, 4, 8}
            np.testing.assert_array_equal(blocks.scale, start.scale)


@given(problems())
def test_refining_never_loses(problem: tuple[Matrix, Scheme, npt.NDArray[Any]]) -> None:
    weight, scheme, hessian = problem
    start = quantize(weight, scheme)
    before = loss(weight, start, hessian)
    after = loss(weight, refine(weight, start, hessian, damping=DAMPING), hessian)
    assert after <= before * (1 + 1e-4) + 1e-9 * loss(weight, _nothing(start), hessian)


@given(problems())
def test_an_integer_scheme_stays_an_int8_matrix(problem: tuple[Matrix, Scheme, npt.NDArray[Any]]) -> None:
    weight, scheme, hessian = problem
    blocks = refine(weight, gptq(weight, quantize(weight, scheme), hessian), hessian)
    if not scheme.is_integer:
        return
    product = blocks.int8()
    assert np.abs(product.astype(int)).max() <= scheme.limit
    columns = np.repeat(blocks.scale, scheme.block_shape[1])[: weight.shape[1]].astype(np.float64)
    np.testing.assert_array_equal(product * columns, blocks.dequantize())


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_each_step_gains(bits: int) -> None:
    weight, hessian = normal(128, 96), inputs(128)
    scheme = Scheme(bits, 32, signed_scales=True)
    nearest = quantize(weight, scheme, np.diag(hessian))
    fixed = gptq(weight, nearest, hessian, damping=DAMPING, search=False)
    searched = gptq(weight, nearest, hessian, damping=DAMPING)
    refined = refine(weight, searched, hessian, damping=DAMPING)
    losses = [loss(weight, blocks, hessian) for blocks in (nearest, fixed, searched, refined)]
    gains = 10 * np.log10(np.array(losses[:-1]) / losses[1:])
    assert gains[0] > 1.8
    assert gains[1] > 0.1
    assert gains[2] > 0.25


@pytest.mark.parametrize("scheme", [Scheme(3, 16), Scheme(4, (8, 3), signed_scales=True), Scheme(2, 8, scale="shift")])
def test_strips_change_nothing(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hessian = normal(48, 31), inputs(48)
    start = quantize(weight, scheme)
    whole = gptq(weight, start, hessian)
    monkeypatch.setattr(gptq_module, "_STRIP_VALUES", 48 * 9)
    parts = gptq(weight, start, hessian)
    assert loss(weight, parts, hessian) == pytest.approx(loss(weight, whole, hessian), rel=0.02)
    assert (whole.codes == parts.codes).mean() > 0.98


def test_with_independent_inputs_alike_nothing_beats_the_nearest_codes() -> None:
    weight = normal(32, 8)
    start = quantize(weight, Scheme(4, 32, scale="float16"))
    for blocks in (gptq(weight, start, np.eye(32)), refine(weight, start, np.eye(32))):
        np.testing.assert_array_equal(blocks.codes, start.codes)


def test_the_best_of_all_codes_is_not_far() -> None:
    """Against every combination of codes of one column: refined GPTQ is within 0.5 dB on the mean."""
    levels = np.stack(np.meshgrid(*[np.arange(-2, 2)] * 6, indexing="ij"), axis=-1).reshape(-1, 6).astype(np.float32)
    ratios = []
    for seed in range(12):
        weight, hessian = normal(6, 1, seed), inputs(6, seed)
        start = quantize(weight, Scheme(2, 6, scale="float32"))
        found = loss(
            weight, refine(weight, gptq(weight, start, hessian, damping=DAMPING), hessian, damping=DAMPING), hessian
        )
        full = hessian + DAMPING * np.diag(hessian).mean() * np.eye(6)
        error = weight[:, 0] - levels * start.scale[0, 0]
        ratios.append(found / np.einsum("ik,kl,il->i", error, full, error).min())
    assert min(ratios) >= 1 - 1e-4
    assert 10 * np.log10(np.mean(ratios)) < 0.5


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_an_unusable_hessian_changes_nothing(bad: float) -> None:
    weight = normal(8, 4)
    start = quantize(weight, Scheme(4, 4))
    assert gptq(weight, start, np.full((8, 8), bad)) is start
    assert refine(weight, start, np.full((8, 8), bad)) is start


def test_dead_inputs_and_zero_columns() -> None:
    weight, hessian = normal(40, 6), inputs(40)
    weight[:, 2] = 0
    hessian[3], hessian[:, 3] = 0, 0
    start = quantize(weight, Scheme(3, 16, signed_scales=True))
    blocks = refine(weight, gptq(weight, start, hessian), hessian)
    assert np.isfinite(blocks.dequantize()).all()
    assert not blocks.dequantize()[:, 2].any()


def test_more_sweeps_do_not_hurt_and_none_change_nothing() -> None:
    weight, hessian = normal(64, 16), inputs(64)
    start = quantize(weight, Scheme(2, 32, signed_scales=True))
    found = [loss(weight, refine(weight, start, hessian, damping=DAMPING, sweeps=n), hessian) for n in (1, 2, 4)]
    assert found == sorted(found, reverse=True)
    kept = refine(weight, start, hessian, damping=DAMPING, sweeps=0)
    np.testing.assert_array_equal(kept.codes, start.codes)


@pytest.mark.real
@pytest.mark.parametrize(("bits", "least"), [(2, 0.8), (3, 0.6), (4, 0.5)])
def test_trained_weights(real_dir: Path, bits: int, least: float) -> None:
    """One trained matrix and inputs of its size: searching multipliers in turn and refining gain over plain GPTQ."""
    from tests.quant.test_quality import _encoder_matrices

    weight = _encoder_matrices(real_dir / "models" / "minilm-sst2" / "model.safetensors")[0].astype(np.float32)
    hessian = inputs(len(weight))
    start = quantize(weight, Scheme(bits, 32, signed_scales=True), np.diag(hessian))
    plain = gptq(weight, start, hessian, damping=DAMPING, search=False)
    best = refine(weight, gptq(weight, start, hessian, damping=DAMPING), hessian, damping=DAMPING)
    assert 10 * np.log10(loss(weight, plain, hessian) / loss(weight, best, hessian)) > least


def _nothing(blocks: Blocks) -> Blocks:
    """All codes at zero."""
    zero = np.zeros_like(blocks.codes)
    return dataclasses.replace(
        blocks, codes=zero, zero_points=None if blocks.zero_points is None else blocks.zero_points * 0
    )
