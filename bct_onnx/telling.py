"""Which outputs say something when two models are compared: those that vary with the inputs, in shapes that do not, by
more than rounding makes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bct_onnx.exactness import NOISE, Sample, kept
from bct_onnx.graph.names import map_values
from bct_onnx.runtime.parity import Parity

CONSTANT = "it does not vary with the inputs"
ELASTIC = "its shape depends on values"
NOISY = "not comparable: rounding alone makes another of it"

_DOUBTFUL = NOISE + 10.0
"""dB: what is noise may keep more on one sample than on others, but hardly so much more."""


def constant(sample: Sample, other: Sample, names: Sequence[str]) -> dict[str, str]:
    """`CONSTANT` for outputs that are the same, NaN included, for other inputs of the same shapes."""
    return {name: CONSTANT for name, db in kept([sample], [other], names).items() if db == math.inf}


def elastic(sample: Sample, others: Sequence[Sample], names: Sequence[str]) -> dict[str, str]:
    """`ELASTIC` for outputs that have other shapes for other inputs of the same shapes."""
    pairs = zip(names, sample, *others, strict=True)
    return {name: ELASTIC for name, first, *rest in pairs if any(_shape(first) != _shape(each) for each in rest)}


def noisy(ratios: Mapping[str, float]) -> dict[str, str]:
    """`NOISY` for outputs of which `bct_onnx.exactness.noisy` gives what they keep."""
    return {name: f"{NOISY} ({db:.0f} dB)" if math.isfinite(db) else NOISY for name, db in ratios.items()}


def is_doubtful(parity: Parity) -> bool:
    """Whether an output is so far from its reference that it may be noise in the model itself."""
    return any(not output.finite or output.sqnr_db < _DOUBTFUL for output in parity.telling.values())


def without(outputs: Sequence[Sample], names: Sequence[str], reasons: Mapping[str, str]) -> list[list[Any]]:
    """``outputs`` of some samples with nothing in place of those that are `ELASTIC` or `NOISY`."""
    kept: list[list[Any]] = []
    for sample in outputs:
        told = list(sample)
        for place, name in enumerate(names):
            if reasons.get(name, "").startswith((ELASTIC, NOISY)):
                told[place] = None
        kept.append(told)
    return kept


def _shape(output: Any) -> Any:
    if isinstance(output, Mapping):
        return map_values(_shape, output)
    if isinstance(output, list):
        return list(map(_shape, output))
    return np.shape(output)
