"""Figures for JSON, which has no infinity and no NaN."""

from __future__ import annotations

import math


def finite(value: float | None) -> float | None:
    """``value``, or None where JSON has no number for it."""
    if value is None or not math.isfinite(value):
        return None
    return value
