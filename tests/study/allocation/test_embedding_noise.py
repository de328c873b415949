"""The noise of a table: what each kind of rows does to the outputs, and rows whose values are unlike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pytest

from bct_onnx.quant import mixed
from bct_onnx.study.allocation.embedding_noise import Embedding, _harm
from bct_onnx.study.allocation.options import Format, Option
from bct_onnx.study.allocation.outputs import Outputs
from passes.quantize_embeddings import QuantizeEmbeddings
from tests.passes.small import model

ROWS, LENGTH = 800, 64
COUNTS = np.repeat([400, 4, 0], [20, 380, 400])
RARE = COUNTS < 100
FORMATS = [Format(bits, 32) for bits in (2, 3, 4)]


@dataclasses.dataclass(frozen=True)
class Weighted:
    """Outputs whose noise is the squared error of the rows looked up, each times its weight."""

    table: np.ndarray[Any, Any]
    weights: np.ndarray[Any, Any]

    def noise(self, changed: Sequence[Mapping[str, np.ndarray[Any, Any]]]) -> float:
        error = np.square(changed[0]["table"] - self.table).sum(axis=1)
        return float((self.weights * COUNTS * error).sum() / COUNTS.sum())


def options(table: np.ndarray[Any, Any], weights: np.ndarray[Any, Any]) -> list[Option]:
    target = model(f"g (int64[n] ids) => (float[n,{LENGTH}] y) {{ y = Gather (table, ids) }}", table=table)
    (tensor,) = QuantizeEmbeddings().storables(target)
    outputs = cast(Outputs, Weighted(table, weights))
    return Embedding(tensor, COUNTS, COUNTS, outputs).options(FORMATS, row_widths=True)


def widths(found: list[Option], bits: float) -> np.ndarray[Any, Any]:
    """Of the rows, in the option that is nearest to so many bits per value."""
    own = [option for option in found if option.formats[0].startswith("@")]
    best = min(own, key=lambda option: abs(option.bits / (ROWS * LENGTH) - bits))
    return mixed.parse_widths(best.formats[0][1:])


def table() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=(ROWS, LENGTH)).astype(np.float32)


def test_rows_of_a_kind_that_does_more_harm_get_more_bits() -> None:
    alike, harmful = (widths(options(table(), weights), 3.0) for weights in (np.ones(ROWS), np.where(RARE, 30.0, 1.0)))
    assert harmful[RARE].mean() > alike[RARE].mean() + 0.05
    assert harmful[~RARE].mean() < alike[~RARE].mean() - 1.0


@pytest.mark.parametrize("weight", [1.0, 30.0])
def test_noise_is_predicted_by_kind(weight: float) -> None:
    outputs = Weighted(table(), np.where(RARE, weight, 1.0))
    for option in options(table(), outputs.weights):
        if option.formats[0].startswith("@") or option.formats[0] == "2/32":
            continue
        (tensor,) = QuantizeEmbeddings().storables(
            model(f"g (int64[n] ids) => (float[n,{LENGTH}] y) {{ y = Gather (table, ids) }}", table=table())
        )
        bits = int(option.formats[0][0])
        stored = tensor.decoded(np.ascontiguousarray(table().T), tensor.scheme(bits, 32)).T
        assert option.noise == pytest.approx(outputs.noise([{"table": stored}]), rel=0.25)


def test_a_row_with_outliers_gets_the_widest_codes() -> None:
    values = table()
    values[3] *= 0.3
    values[3, :2] = 12.0
    assert widths(options(values, np.ones(ROWS)), 3.0)[3] == 8
    assert (widths(options(table(), np.ones(ROWS)), 3.0)[:20] < 8).all()


@pytest.mark.parametrize(("power", "told"), [(-0.3, -0.3), (0.2, 0.0), (-0.9, -0.5)])
def test_harm_is_a_power_of_the_share(power: float, told: float) -> None:
    """Also where nothing was looked up; never more for frequent words, and never steeper than is known."""
    shares, kinds = np.geomspace(1e-7, 1e-2, 6), np.array([0, 0, 0, 1, 2, 3])
    used = np.array([0, 0, 1, 5, 50, 500])
    harm = _harm(shares[2:] ** power, kinds, used, shares)
    np.testing.assert_allclose(harm / harm[-1], (shares / shares[-1]) ** told, rtol=1e-6)
    assert not _harm(np.zeros(4), kinds, used, shares).any()
