"""Figures as people read them, and as JSON has them."""

from __future__ import annotations

import math


def times(value: float) -> str:
    """A ratio.

    >>> times(7.571), times(12.34)
    ('7.6x', '12x')
    """
    return f"{value:.1f}x" if value < 10 else f"{value:.0f}x"


def milliseconds(value: float) -> str:
    """A duration.

    >>> milliseconds(0.0123), milliseconds(4.21), milliseconds(308.4)
    ('0.01 ms', '4.2 ms', '308 ms')
    """
    if value < 0.1:
        return f"{value:.2f} ms"
    return f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


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
    return f"{percent:.0f} %" if percent >= 2 else f"{percent:.2f} %"


def number(value: float | None, form: str, missing: str = "-") -> str:
    """A figure that may be missing."""
    return missing if value is None else format(value, form)


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


def decibels(value: float, unit: str = " dB") -> str:
    """A signal to noise ratio.

    >>> decibels(21.46), decibels(math.inf), decibels(math.nan, unit="")
    ('21.5 dB', 'exact', 'not finite')
    """
    if math.isnan(value):
        return "not finite"
    if value == math.inf:
        return "exact"
    return f"{value:.1f}{unit}"


def finite(value: float | None) -> float | None:
    """``value``, or None where JSON has no number for it."""
    if value is None or not math.isfinite(value):
        return None
    return value
