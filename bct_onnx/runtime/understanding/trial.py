"""What outputs depend on: the judge between two readings of an input."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from bct_onnx.runtime.outputs import flat
from bct_onnx.runtime.session import run

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]

MOVED = 1e-6
"""Outputs that differ by less of their largest magnitude do not depend on what was changed."""


class Trial:
    """One model that is run on small samples.

    Args:
        runner: The model.
        outputs: Names of the outputs that count.
    """

    def __init__(self, runner: ort.InferenceSession, outputs: Sequence[str]) -> None:
        self._runner, self._outputs = runner, list(outputs)

    def outputs(self, feeds: Mapping[str, Array]) -> list[Array]:
        """What the model gives, floats as float64.

        Raises:
            TargetError: It does not run.
        """
        made = flat(run(self._runner, feeds, self._outputs))
        return [np.asarray(each) if each.dtype.kind in "biuOSU" else each.astype(np.float64) for each in made]

    def influence(self, before: Sequence[Array], feeds: Mapping[str, Array]) -> float:
        """The number of output elements that other feeds change, finite ones only."""
        after = self.outputs(feeds)
        if len(before) != len(after):  # a sequence has another length
            return float(sum(one.size for one in after))
        return math.fsum(_moved(one, other) for one, other in zip(before, after, strict=True))


def finite_share(outputs: Sequence[Array]) -> float:
    """The part of the elements of floating-point outputs that is finite; 1 where there are none."""
    floats = [each for each in outputs if each.dtype.kind == "f" and each.size]
    total = sum(each.size for each in floats)
    return sum(int(np.isfinite(each).sum()) for each in floats) / total if total else 1.0


def selectivity(trial: Trial, sample: Callable[[Array], Feeds], change: Callable[[Feeds, int], Feeds]) -> float:
    """How much more outputs depend on what a mask shows than on what it hides: 1 on that alone, -1 on the rest alone.

    Args:
        trial: The model.
        sample: A sample whose mask shows the halves that are given, as two booleans.
        change: The same with other contents in a half of the sequence, 0 or 1.
    """
    shown = hidden = 0.0
    for first in (True, False):
        feeds = sample(np.array([first, not first]))
        outputs = trial.outputs(feeds)
        for half, is_shown in enumerate((first, not first)):
            moved = trial.influence(outputs, change(feeds, half))
            shown, hidden = (shown + moved, hidden) if is_shown else (shown, hidden + moved)
    return (shown - hidden) / (shown + hidden) if shown + hidden else 0.0


def _moved(one: Array, other: Array) -> float:
    if one.shape != other.shape:
        return float(max(one.size, other.size))
    if one.dtype.kind != "f":
        return float((one != other).sum())
    both = np.isfinite(one) & np.isfinite(other)
    top = float(np.abs(one[both]).max(initial=0.0))
    return float((np.abs(one[both] - other[both]) > MOVED * top).sum())
