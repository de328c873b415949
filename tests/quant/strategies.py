"""Weights and schemes for the property tests."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
from hypothesis.extra import numpy as hnp

from bct_onnx.quant import Scheme

Matrix = npt.NDArray[Any]

_SIDES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)
_VALUES = st.floats(-100, 100, width=32).map(lambda value: 0.0 if abs(value) < 1e-4 else value)
_BLOCKS = st.one_of(st.integers(1, 17), st.just(32), st.tuples(st.integers(1, 9), st.integers(1, 9)))


def matrices() -> st.SearchStrategy[Matrix]:
    """float32 weights up to 40 x 40, with zeros, ties and values of very different size."""
    return hnp.arrays(np.float32, _SIDES, elements=_VALUES, fill=st.just(0.0)) | _SIDES.flatmap(_normal)


@st.composite
def schemes(
    draw: st.DrawFn,
    *,
    scale: tuple[str, ...] = ("two-level", "shift", "float16", "float32"),
    search: tuple[str, ...] = ("mse", "max"),
    symmetric: tuple[bool, ...] = (True, False),
) -> Scheme:
    """Every allowed scheme."""
    bits = draw(st.sampled_from((2, 3, 4, 5, 6, 8)))
    kind, how = draw(st.sampled_from(scale)), draw(st.sampled_from(search))
    signed = (
        draw(st.sampled_from(symmetric)) or kind == "shift" or (bits == 8 and kind == "two-level") or bits in (5, 6)
    )
    return Scheme(bits, draw(_BLOCKS), signed, kind, how, draw(st.booleans()), draw(st.booleans()))


def normal(k: int, n: int, seed: int = 0) -> Matrix:
    """Normal random weights, float32 [k, n]."""
    return np.random.default_rng(seed).standard_normal((k, n), dtype=np.float32)


def _normal(shape: tuple[int, ...]) -> st.SearchStrategy[Matrix]:
    return st.integers(0, 2**16).map(lambda seed: normal(shape[0], shape[1], seed))
