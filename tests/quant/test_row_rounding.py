"""Rows of tables rounded by what their errors do to the outputs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from bct_onnx.quant import Scheme, mixed
from bct_onnx.quant.row_rounding import RowRounding

LENGTH = 64


def _correlated(seed: int = 0) -> npt.NDArray[np.float32]:
    """JᵀJ of outputs that hear some directions ten times as well as others."""
    rng = np.random.default_rng(seed)
    jacobian = (
        rng.normal(size=(LENGTH, LENGTH)) @ np.diag(np.geomspace(0.1, 1, LENGTH)) @ rng.normal(size=(LENGTH, LENGTH))
    )
    return np.asarray(jacobian.T @ jacobian, np.float32)


def _lost(hessian: npt.NDArray[np.float32], rows: npt.NDArray[np.float32], stored: mixed.MixedRows) -> float:
    codes, scale = mixed.levels(stored, LENGTH)
    error = rows - codes * scale[:, None]
    return float(np.einsum("nk,kl,nl->", error, hessian, error))


@pytest.mark.parametrize("width", sorted(mixed.ORDER))
def test_less_is_lost_at_the_outputs_in_the_same_format(width: int) -> None:
    hessian, rows = _correlated(), np.random.default_rng(1).normal(size=(40, LENGTH)).astype(np.float32)
    widths = np.full(len(rows), width, np.uint8)
    nearest = mixed.quantize(rows, widths, Scheme(4, 32))
    rounded = mixed.quantize(rows, widths, Scheme(4, 32), RowRounding.of(hessian))
    assert _lost(hessian, rows, rounded) < 0.8 * _lost(hessian, rows, nearest)
    assert {bits: codes.shape for bits, codes in rounded.slices.items()} == {
        bits: codes.shape for bits, codes in nearest.slices.items()
    }


def test_where_all_directions_count_alike_nothing_is_lost() -> None:
    hessian, rows = (
        np.eye(LENGTH, dtype=np.float32),
        np.random.default_rng(1).normal(size=(40, LENGTH)).astype(np.float32),
    )
    widths = np.resize(np.array(mixed.ORDER, np.uint8), len(rows))
    nearest = mixed.quantize(rows, widths, Scheme(4, 32))
    rounded = mixed.quantize(rows, widths, Scheme(4, 32), RowRounding.of(hessian))
    assert _lost(hessian, rows, rounded) <= 1.001 * _lost(hessian, rows, nearest)


def test_rows_of_zeros_stay_finite() -> None:
    rows = np.zeros((6, LENGTH), np.float32)
    stored = mixed.quantize(rows, np.array(mixed.ORDER, np.uint8), Scheme(4, 32), RowRounding.of(_correlated()))
    assert _lost(_correlated(), rows, stored) == 0


@pytest.mark.parametrize("useless", [None, np.zeros((4, 4), np.float32), np.full((4, 4), np.nan, np.float32)])
def test_without_a_usable_measurement_there_is_no_such_rounding(useless: npt.NDArray[np.float32] | None) -> None:
    assert RowRounding.of(useless) is None
