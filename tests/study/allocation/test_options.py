"""Measurements as data: round trip, budgets, what is in reach."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from bct_onnx.errors import UsageError
from bct_onnx.study.allocation import NoiseTable, Option, TensorOptions

SMALL, LARGE = Option(2000, 4.0, ("2/32",)), Option(4000, 1.0, ("4/32@0-8", "3/32@8-16"))
TENSOR = TensorOptions("w", "quantize-weights", (10, 100), (SMALL, LARGE))
TABLE = NoiseTable((TENSOR,), 500, 1000, "KL", "random tokens")


def test_a_table_survives_json() -> None:
    assert NoiseTable.of(json.loads(json.dumps(dataclasses.asdict(TABLE)))) == TABLE


@pytest.mark.parametrize(
    "change",
    [
        {"options": [{"formats": ["2"], "bits": 1, "noise": float("nan")}]},
        {"options": []},
        {"options": [{"bits": 1}]},
        {"shape": [1]},
        {"options": "x"},
        {"shape": None},
    ],
)
def test_other_content_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        TensorOptions.of(dataclasses.asdict(TENSOR) | change)


def test_reachable_counts_what_is_fixed() -> None:
    assert TABLE.reachable == (2500, 4500)
    assert TABLE.ratio(2500) == 12.8


def test_totals() -> None:
    assert TABLE.total(10.0) == 3200 - 4
    assert TABLE.total(10.0, bits=3.0) == 3000 - 3
    assert TABLE.total(1.0) == 32000 - 32


def test_an_impossible_size_says_what_is_possible() -> None:
    with pytest.raises(UsageError, match=r"13 cannot be reached[^$]*12.80x smaller[^$]*7.11x"):
        TABLE.total(13.0)
    with pytest.raises(UsageError, match=r"2.4 bits per parameter cannot be reached"):
        TABLE.total(1.0, bits=2.4)
