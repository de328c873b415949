"""Second moments are those of the rows, however they are summed up and wherever they wait."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bct_onnx.graph import tensors
from bct_onnx.quant import moments as module
from bct_onnx.quant.moments import Moments
from bct_onnx.quant.stored import Stored
from tests.quant.strategies import normal


@pytest.mark.parametrize(("width", "strip"), [(7, 512), (7, 3), (7, 7), (1, 2), (12, 4)])
def test_they_are_x_transposed_x(width: int, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STRIP", strip)
    first, second = normal(9, width), normal(5, width)
    found = Moments.of(first)
    found.add(second)
    found = found + Moments.of(first)
    wanted = 2 * first.T @ first + second.T @ second
    np.testing.assert_allclose(found.matrix(), wanted, rtol=1e-5, atol=1e-5)
    assert np.array_equal(found.matrix(), found.matrix().T) and found.matrix().dtype == np.float32
    np.testing.assert_array_equal(Moments.from_matrix(found.matrix()).matrix(), found.matrix())
    factors = np.linspace(1, 3, width)
    np.testing.assert_allclose(
        found.divided(factors).divided(factors).matrix(), wanted / np.outer(factors, factors) ** 2, rtol=1e-5, atol=1e-5
    )


def test_they_wait_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "SPOOLED", 100)
    upper = np.arange(400, dtype=np.float32)
    found = Moments(20, upper)
    assert tensors.put_away(upper) is upper, "there is no spool"
    with tensors.Spool(tmp_path):
        waiting = Moments(20, tensors.put_away(upper))
        assert isinstance(waiting.upper, Stored)
        np.testing.assert_array_equal(waiting.matrix(), found.matrix())
