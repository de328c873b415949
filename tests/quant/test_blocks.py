"""Properties that hold for every scheme and every weight."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

from bct_onnx.errors import InputModelError, UsageError
from bct_onnx.quant import Scheme, pack, quantize, sqnr_db
from bct_onnx.quant.packing import is_sliced
from tests.examples import examples
from tests.quant.strategies import Matrix, matrices, normal, schemes


@given(matrices(), schemes())
def test_shapes_types_and_ranges(weight: Matrix, scheme: Scheme) -> None:
    blocks = quantize(weight, scheme)
    k, n = weight.shape
    grid = scheme.grid(k, n)
    assert blocks.codes.dtype == (np.int8 if scheme.symmetric else np.uint8)
    assert scheme.code_min <= blocks.codes.min()
    assert blocks.codes.max() <= scheme.code_max
    assert (blocks.multipliers is not None) == bool(scheme.multiplier_bits)
    if blocks.multipliers is not None:
        assert blocks.multipliers.dtype == (np.int8 if scheme.mirrors else np.uint8)
        assert blocks.multipliers.shape == grid
        assert scheme.multiplier_min <= blocks.multipliers.min()
        assert blocks.multipliers.max() <= scheme.multiplier_max
        assert blocks.multipliers.all()
    assert blocks.scale.shape == (grid[1:] if scheme.is_integer else grid)
    assert blocks.steps().shape == (
        ceil(k / scheme.block_shape[0]) if blocks.scale.ndim > 1 else len(blocks.steps()),
        n,
    )
    assert (blocks.zero_points is None) == scheme.symmetric


@given(matrices(), schemes(scale=("two-level", "shift")))
def test_an_integer_scheme_is_an_int8_matrix_with_a_scale_per_column(weight: Matrix, scheme: Scheme) -> None:
    blocks = quantize(weight, scheme)
    product = blocks.int8()
    assert product.dtype == np.int8
    assert np.abs(product.astype(int)).max() <= scheme.limit
    columns = np.repeat(blocks.scale, scheme.block_shape[1])[: weight.shape[1]].astype(np.float64)
    np.testing.assert_array_equal(product * columns, blocks.dequantize())


@given(matrices(), schemes(search=("max",)))
def test_search_by_max_is_off_by_half_a_step_at_most(weight: Matrix, scheme: Scheme) -> None:
    """Except that a zero point is a whole code, which costs the far end of a block a little more."""
    blocks = quantize(weight, scheme)
    rows = weight.shape[0] if scheme.is_integer and not scheme.multiplier_bits else scheme.block_shape[0]
    step = np.repeat(np.abs(blocks.steps()), rows, axis=0)[: len(weight)]
    half = step * (0.5 if scheme.symmetric else 0.5 / (1 - 0.5 / scheme.code_max)) * (1 + 1e-5 * 2**scheme.bits)
    assert (np.abs(weight - blocks.dequantize()) <= half).all()


@given(matrices(), schemes())
def test_zero_stays_zero(weight: Matrix, scheme: Scheme) -> None:
    assert not quantize(weight, scheme).dequantize()[weight == 0].any()


@given(matrices(), schemes(), st.integers(-40, 40))
def test_powers_of_two_pass_through_to_the_scales(weight: Matrix, scheme: Scheme, exponent: int) -> None:
    blocks, scaled = quantize(weight, scheme), quantize(np.ldexp(weight, exponent), scheme)
    np.testing.assert_array_equal(blocks.codes, scaled.codes)
    np.testing.assert_array_equal(np.ldexp(blocks.dequantize(), exponent), scaled.dequantize())


@given(matrices(), schemes())
def test_partial_blocks_are_blocks_filled_up_with_zeros(weight: Matrix, scheme: Scheme) -> None:
    k, n = weight.shape
    rows, columns = scheme.block_shape
    full = np.pad(weight, [(0, -k % rows), (0, -n % columns)])
    np.testing.assert_array_equal(quantize(full, scheme).codes[:k, :n], quantize(weight, scheme).codes)
    np.testing.assert_array_equal(quantize(full, scheme).steps()[:, :n], quantize(weight, scheme).steps())


@given(matrices(), schemes(scale=("float16", "float32")), st.integers(1, 9))
def test_a_block_two_columns_wide_is_one_block(weight: Matrix, scheme: Scheme, rows: int) -> None:
    """Two-dimensional blocks are the same as blocks of one column made of their columns one below the other."""
    wide = Scheme(scheme.bits, (rows, 2), scheme.symmetric, scheme.scale, scheme.search)
    tall = Scheme(scheme.bits, 2 * rows, scheme.symmetric, scheme.scale, scheme.search)
    full = np.pad(weight, [(0, -weight.shape[0] % rows), (0, weight.shape[1] % 2)])
    stacked = full.reshape(-1, rows, full.shape[1] // 2, 2).transpose(0, 1, 3, 2).reshape(-1, full.shape[1] // 2)
    np.testing.assert_array_equal(quantize(full, wide).scale, quantize(stacked, tall).scale)


@given(matrices(), schemes(), st.sampled_from((1, 50, 300)))
def test_the_width_of_a_strip_changes_nothing(weight: Matrix, scheme: Scheme, strip_values: int) -> None:
    blocks, others = quantize(weight, scheme), quantize(weight, scheme, strip_values=strip_values)
    assert blocks.codes.tobytes() == others.codes.tobytes()
    assert blocks.scale.tobytes() == others.scale.tobytes()
    assert blocks.steps().tobytes() == others.steps().tobytes()


@given(matrices(), schemes(search=("mse",)))
def test_search_by_error_is_never_worse_than_by_max(weight: Matrix, scheme: Scheme) -> None:
    schemes = scheme, replace(scheme, search="max")
    by_error, by_max = (np.square(weight - quantize(weight, s).dequantize(), dtype=float).sum() for s in schemes)
    rounding = weight.size * (float(np.abs(weight).max()) * 2.0**-12) ** 2  # of scales to 11 bits
    assert by_error <= by_max * (1 + 1e-4) + rounding


@given(matrices(), schemes())
def test_nbytes_are_the_bytes_of_what_is_stored(weight: Matrix, scheme: Scheme) -> None:
    blocks = quantize(weight, scheme)
    arrays = [(blocks.codes, scheme.bits), (blocks.multipliers, 4), (blocks.zero_points, scheme.zero_point_bits)]
    stored = blocks.scale.nbytes
    for array, bits in arrays:
        if array is not None:
            unsigned = array.view(np.uint8) & np.uint8(2**bits - 1)
            in_rows = bits == 3 or is_sliced(bits)
            stored += pack(unsigned if in_rows else unsigned.ravel(), bits).nbytes
    assert blocks.nbytes == stored
    assert blocks.bits_per_weight == 8 * stored / weight.size


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_refused(bad: float) -> None:
    weight = normal(40, 5)
    weight[33, 3] = bad
    with pytest.raises(InputModelError, match="NaN or Inf"):
        quantize(weight, Scheme(4, 32))


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4), (0, 4), (4, 0)])
def test_what_is_not_a_matrix_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputModelError, match="cannot be quantized"):
        quantize(np.zeros(shape, np.float32), Scheme(4, 32))


def test_integers_are_refused() -> None:
    with pytest.raises(InputModelError, match="int8 cannot be quantized"):
        quantize(np.ones((4, 4), np.int8), Scheme(4, 32))


@pytest.mark.parametrize("weights", [np.ones(3), np.array([1.0, -1, 1, 1]), np.array([1.0, np.nan, 1, 1])])
def test_importance_that_does_not_fit_is_refused(weights: Matrix) -> None:
    with pytest.raises(InputModelError, match="importance"):
        quantize(np.ones((4, 4), np.float32), Scheme(4, 2), weights)


def test_float_scales_give_no_int8() -> None:
    with pytest.raises(UsageError, match="is not an int8 matrix"):
        quantize(normal(8, 2), Scheme(4, 4, scale="float16")).int8()


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_float_types_are_read_as_they_are(kind: type) -> None:
    weight: Matrix = normal(40, 9).astype(kind)
    for scheme in (Scheme(4, 32), Scheme(3, 8, scale="float32")):
        read = quantize(weight, scheme).dequantize()
        np.testing.assert_array_equal(read, quantize(weight.astype(np.float32), scheme).dequantize())


@examples(30)
@given(schemes(scale=("two-level", "shift", "float16")), st.sampled_from((-110, -30, -10, 0, 12, 60, 120)))
def test_scales_are_float16_wherever_that_has_the_range(scheme: Scheme, exponent: int) -> None:
    weight = np.ldexp(normal(40, 3), exponent).astype(np.float32)
    blocks = quantize(weight, scheme)
    used = np.abs(blocks.scale[blocks.scale != 0].astype(np.float64))
    normal_range = ((used >= 2.0**-14) & (used <= 65504)).all()
    assert blocks.scale.dtype == (np.float16 if normal_range else np.float32)
    assert sqnr_db(weight, blocks.dequantize()) > 3 * scheme.bits - 8


def test_very_small_and_very_large_floats_survive() -> None:
    tiny = quantize(np.full((4, 2), 2.0**-149, np.float32), Scheme(4, 2))
    assert np.isfinite(tiny.dequantize()).all()
    huge = np.full((4, 2), np.float32(1e38))
    for scheme in (Scheme(4, 2), Scheme(4, 2, scale="shift"), Scheme(8, 2), Scheme(4, 2, symmetric=False)):
        assert sqnr_db(huge, quantize(huge, scheme).dequantize()) > 10


def test_rows_that_matter_are_quantized_better() -> None:
    weight = np.random.default_rng(3).standard_t(4, (256, 64)).astype(np.float32)
    weights = np.random.default_rng(4).pareto(1.5, 256) + 0.01
    for scheme in (Scheme(4, 32), Scheme(3, 32, signed_scales=True), Scheme(4, 64, scale="float16"), Scheme(8, 32)):
        plain, aware = quantize(weight, scheme), quantize(weight, scheme, weights)
        errors = [(weights[:, None] * (weight - b.dequantize()) ** 2).sum() for b in (plain, aware)]
        assert errors[1] < 0.97 * errors[0], scheme


def test_equal_importance_is_no_importance() -> None:
    weight = normal(96, 40)
    plain, equal = quantize(weight, Scheme(4, 32)), quantize(weight, Scheme(4, 32), np.full(96, 7.0))
    np.testing.assert_array_equal(plain.dequantize(), equal.dequantize())
    assert np.isfinite(quantize(weight, Scheme(4, 32), np.zeros(96)).dequantize()).all()
