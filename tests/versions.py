"""Which versions of other packages a test needs: ``@pytest.mark.since("1.32", "older ones ...")``, see conftest.py."""

from __future__ import annotations

import importlib.metadata

import pytest

TWO_BITS = pytest.mark.since("1.24", "older ones know no types of two bits")


def has(version: str, package: str = "onnxruntime") -> bool:
    """Whether this version, or a later one, is installed.

    >>> has("1.0"), has("99.0", "onnx")
    (True, False)
    """
    return _numbers(importlib.metadata.version(package)) >= _numbers(version)


def lacks(item: pytest.Item) -> str:
    """What a test needs and is not installed, and what older ones do; empty if all is there."""
    for marker in item.iter_markers("since"):
        version, why = marker.args
        package = marker.kwargs.get("package", "onnxruntime")
        if not has(version, package):
            return f"{package} is older than {version}: {why}"
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    """Major and minor number: what comes behind them mends faults, of which the tests know nothing."""
    return tuple(int(part) for part in version.split(".")[:2])
