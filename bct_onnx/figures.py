"""Figures as people read them, and as JSON has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol


def times(value: float) -> str:
    """A ratio.

    >>> times(7.571), times(12.34)
    ('7.6x', '12x')
    """
    if value < 10:
        return f"{value:.1f}x"
    return f"{value:.0f}x"


def milliseconds(value: float) -> str:
    """A duration.

    >>> milliseconds(0.0123), milliseconds(4.21), milliseconds(308.4)
    ('0.01 ms', '4.2 ms', '308 ms')
    """
    if value < 0.1:
        return f"{value:.2f} ms"
    if value < 100:
        return f"{value:.1f} ms"
    return f"{value:.0f} ms"


def share_of_error(sqnr_db: float) -> float:
    """Size of an error beside what it is an error of, ``10 ** (-dB / 20)``.

    >>> share_of_error(20.0), share_of_error(float("inf"))
    (0.1, 0.0)
    """
    return float(10 ** (-sqnr_db / 20))


def off_by(sqnr_db: float) -> str:
    """An error in words.

    >>> off_by(20.0), off_by(60.0), off_by(float("inf"))
    ('10 %', '0.10 %', 'nothing')
    """
    percent = 100 * share_of_error(sqnr_db)
    if percent == 0.0:
        return "nothing"
    if percent >= 2:
        return f"{percent:.0f} %"
    return f"{percent:.2f} %"


def number(value: float | None, form: str, missing: str = "-") -> str:
    """A figure that may be missing."""
    if value is None:
        return missing
    return format(value, form)


def percent(share: float | None, form: str, missing: str = "") -> str:
    """A share in percent, which may be missing.

    >>> percent(0.1234, ".1f"), percent(None, ".1f", "-")
    ('12.3', '-')
    """
    if share is None:
        return missing
    return format(100 * share, form)


def megabytes(nbytes: int) -> str:
    """A size for people, in units of 10^6 bytes.

    >>> megabytes(11_973_112), megabytes(3_100)
    ('12.0 MB', '3.1 kB')
    """
    if nbytes >= 1e5:
        return f"{nbytes / 1e6:.1f} MB"
    return f"{nbytes / 1e3:.1f} kB"


def decibels(value: float | None, unit: str = " dB") -> str:
    """A signal to noise ratio; nothing of none.

    >>> decibels(21.46), decibels(math.inf), decibels(math.nan, unit="")
    ('21.5 dB', 'exact', 'not finite')
    """
    if value is None:
        return ""
    if math.isnan(value):
        return "not finite"
    if value == math.inf:
        return "exact"
    return f"{value:.1f}{unit}"


def counted(number: int, noun: str) -> str:
    """So many of something whose plural ends in an s.

    >>> counted(1, "place"), counted(3, "place")
    ('1 place', '3 places')
    """
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}s"


class Figures(Protocol):
    """What is told as JSON."""

    def as_dict(self) -> dict[str, Any]:
        """Its figures by name."""


def as_dict(thing: Figures | None) -> dict[str, Any] | None:
    """What JSON has of something that may be missing."""
    if thing is None:
        return None
    return thing.as_dict()


def finite_of(thing: object, *names: str) -> dict[str, float | None]:
    """Some figures of a thing by name, or None where it has none or JSON has no number for it."""
    return {name: finite(getattr(thing, name, None)) for name in names}


def finite_values(values: Mapping[str, float]) -> dict[str, float | None]:
    """Each of some figures, or None where JSON has no number for it."""
    return {name: finite(value) for name, value in values.items()}


def finite(value: float | None) -> float | None:
    """``value``, or None where JSON has no number for it."""
    if value is None or not math.isfinite(value):
        return None
    return value
