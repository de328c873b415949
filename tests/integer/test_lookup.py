"""Tables: correctly rounded, and one function for both types of codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bct_onnx.integer import KERNELS
from bct_onnx.integer.lookup import FUNCTIONS, table_of
from tests.integer import harness
from tests.integer.harness import Array, every_code, random_codes

LOOKUP = KERNELS["Lookup"]
types = pytest.mark.parametrize("dtype", harness.CODE_TYPES)


@types
def test_entries_are_found_for_every_code(dtype: Any) -> None:
    table = random_codes(256)
    x = every_code(dtype, 3)
    for static in (False, True):
        found = harness.agree(LOOKUP, {"x": x, "table": table}, static=static)
        assert np.array_equal(found, table[x.astype(int) % 256])


@types
@pytest.mark.parametrize("y_dtype", harness.CODE_TYPES)
@pytest.mark.parametrize("x_scale", harness.SCALES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_tables_are_correctly_rounded(name: str, x_scale: float, dtype: Any, y_dtype: Any) -> None:
    x, zero = every_code(dtype)[0], np.array(5, dtype)
    scales = np.float32(x_scale), np.float32(0.01)
    middle = np.array(7, y_dtype)
    found = table_of(name, scales[0], zero, scales[1], middle)
    assert found.dtype == y_dtype and found.shape == (256,)
    reals = np.float64(scales[0]) * (x.astype(int) - 5)
    limits = np.iinfo(y_dtype)
    low, high = ((limit - 7) * np.float64(scales[1]) for limit in (limits.min, limits.max))
    error = (
        found[x.astype(int) % 256].astype(int) - 7 - np.clip(FUNCTIONS[name](reals), low, high) / np.float64(scales[1])
    )
    assert np.abs(error).max() <= 0.5 + 1e-9


def test_a_function_of_the_users() -> None:
    def square(x: Array) -> Array:
        return x * x

    one, zero = np.float32(1), np.array(0, np.uint8)
    assert table_of(square, one, zero, one, zero).tolist() == [min(c * c, 255) for c in range(256)]


def test_what_has_no_table_is_refused() -> None:
    one, zero = np.float32(1), np.array(0, np.uint8)
    with pytest.raises(KeyError, match="Cosine"):
        table_of("Cosine", one, zero, one, zero)
    with pytest.raises(ValueError, match="one scale"):
        table_of("Gelu", np.ones(2, np.float32), zero, one, zero)
    with pytest.raises(ValueError, match="not a number"):
        table_of(lambda x: np.full_like(x, np.nan), one, zero, one, zero)


def test_infinity_is_the_last_code() -> None:
    big, zero = np.float32(100), np.array(0, np.uint8)
    assert table_of("Exp", big, zero, np.float32(1), zero)[[0, 1, 255]].tolist() == [1, 255, 255]
