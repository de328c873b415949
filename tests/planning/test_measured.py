"""Measurements as data: round trip, budgets, what is in reach."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bct_onnx.errors import UsageError
from bct_onnx.planning import Item, Measured, Option

SMALL, LARGE = Option(("2/32",), 2000, 4.0), Option(("4/32@0-8", "3/32@8-16"), 4000, 1.0)
ITEM = Item("w", "quantize-weights", (10, 100), (SMALL, LARGE))
MEASURED = Measured((ITEM,), 500, 1000, "KL", "random tokens")


def test_an_item_survives_json() -> None:
    assert Item.of(json.loads(json.dumps(ITEM.as_dict()))) == ITEM


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
        Item.of(ITEM.as_dict() | change)


def test_reachable_counts_what_is_fixed() -> None:
    assert MEASURED.reachable == (2500, 4500)
    assert MEASURED.ratio(2500) == 12.8


def test_budgets() -> None:
    assert MEASURED.budget(ratio=10.0) == 3200 - 4 - 500
    assert MEASURED.budget(bits=3.0) == 3000 - 3 - 500
    assert MEASURED.budget(ratio=1.0) == 32000 - 32 - 500


@pytest.mark.parametrize("wish", [{}, {"ratio": 10.0, "bits": 3.0}])
def test_one_target_is_needed(wish: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="a plan needs one target"):
        MEASURED.budget(**wish)


@pytest.mark.parametrize("value", [0.0, -3.0, float("nan"), float("inf")])
def test_targets_are_positive(value: float) -> None:
    with pytest.raises(UsageError, match="is no target"):
        MEASURED.budget(ratio=value)


def test_an_impossible_target_says_what_is_possible() -> None:
    with pytest.raises(UsageError, match=r"13 cannot be reached[^$]*12.80x smaller[^$]*7.11x") as caught:
        MEASURED.budget(ratio=13.0)
    assert caught.value.where == "--target-ratio"
    with pytest.raises(UsageError, match="cannot be reached") as caught:
        MEASURED.budget(bits=2.4)
    assert caught.value.where == "--target-bits"
