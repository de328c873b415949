"""Figures as people read them."""

from __future__ import annotations

from bct_onnx.cli.tables.cells import decibels, megabytes

__all__ = ["decibels", "megabytes", "milliseconds", "off_by", "share_of_error", "times"]


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
