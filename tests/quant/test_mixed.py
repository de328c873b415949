"""Tables whose rows have widths of their own: codes, slices, places and texts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bct_onnx.errors import UsageError
from bct_onnx.quant import Scheme, mixed
from tests.passes.small import normal

SCHEME = Scheme(4, 32)
widths_of_rows = st.lists(st.sampled_from(mixed.ORDER), min_size=1, max_size=80).map(lambda w: np.array(w, np.uint8))


@given(widths_of_rows)
def test_slices_give_back_the_codes(widths: np.ndarray) -> None:
    table = normal(len(widths), 16)
    stored = mixed.quantize(table, widths, SCHEME)
    levels, steps = mixed.levels(stored, 16)
    for row, width in enumerate(widths):
        codes, scale = mixed.encode(table[row : row + 1], int(width))
        wanted = mixed.decode(codes, stored.scale[row : row + 1], int(width))[0]
        np.testing.assert_allclose(levels[row] * steps[row], wanted, rtol=1e-6)
        assert stored.scale[row] == pytest.approx(scale[0], rel=1e-3)
    assert sorted(stored.places.tolist()) == list(range(len(widths)))


@given(widths_of_rows)
def test_texts_of_widths(widths: np.ndarray) -> None:
    np.testing.assert_array_equal(mixed.parse_widths(mixed.print_widths(widths)), widths)


@pytest.mark.parametrize("text", ["", "5", "6(", "61()", "6(3", "a1", "(3)"])
def test_what_is_no_text_of_widths(text: str) -> None:
    with pytest.raises(UsageError, match="widths of rows"):
        mixed.parse_widths(text)


@pytest.mark.parametrize(
    ("width", "share"), [(1, 0.3634), (2, 0.1188), (3, 0.0374), (4, 0.0115), (6, 0.00095), (8, 0.00006)]
)
def test_errors_of_normal_rows(width: int, share: float) -> None:
    """Up to 4 bits those of the best uniform levels for normal values (Max 1960), but for the sample; then fewer, as
    the largest of 768 values are nearer."""
    table = normal(64, 768)
    codes, scale = mixed.encode(table, width)
    lost = float(np.square(table - mixed.decode(codes, scale, width)).sum() / np.square(table).sum())
    assert lost == pytest.approx(share, rel=0.06)


@pytest.mark.parametrize(("width", "share"), [(4, 0.15), (6, 0.012), (8, 0.0007)])
def test_a_value_far_larger_than_its_row(width: int, share: float) -> None:
    """Codes of more bits reach it; those of few leave it out."""
    table = normal(64, 384)
    table[:, 7] = 14.0
    lost = float(np.square(table - mixed.decode(*mixed.encode(table, width), width)).sum() / np.square(table).sum())
    assert lost < share


@pytest.mark.parametrize("width", mixed.ORDER)
def test_rows_of_zeros_and_of_any_size(width: int) -> None:
    rows = np.stack([np.zeros(16), normal(1, 16)[0] * 1e-6, normal(1, 16)[0] * 1e6]).astype(np.float32)
    codes, scale = mixed.encode(rows, width)
    assert codes.max() < 1 << width and scale[0] == 0.0 and np.isfinite(scale).all()
    lost = np.square(rows - mixed.decode(codes, scale, width)).sum(axis=1) / np.maximum(np.square(rows).sum(axis=1), 1)
    assert (lost < 0.6).all()


def test_a_stored_table_takes_what_is_said() -> None:
    widths = np.array([1, 2, 3, 4, 6, 8] * 20, np.uint8)
    stored = mixed.quantize(normal(120, 64), widths, SCHEME)
    arrays = [*stored.slices.values(), stored.scale, stored.places]
    assert mixed.nbytes(widths, 64) == sum(array.nbytes for array in arrays) + 64


def test_places_of_many_rows_take_four_bytes() -> None:
    few, many = np.ones(1 << 16, np.uint8), np.ones((1 << 16) + 1, np.uint8)
    assert mixed.quantize(np.zeros((1 << 16, 8), np.float32), few, SCHEME).places.dtype == np.uint16
    assert mixed.quantize(np.zeros(((1 << 16) + 1, 8), np.float32), many, SCHEME).places.dtype == np.uint32
    assert mixed.row_bytes(1, 8, len(many)) == mixed.row_bytes(1, 8, len(few)) + 2
