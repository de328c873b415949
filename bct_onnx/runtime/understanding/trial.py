"""What outputs depend on: the judge between two readings of an input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from bct_onnx.runtime.outputs import flat
from bct_onnx.runtime.session import run

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]

MOVED = 1e-6
"""Outputs that differ by less of their largest magnitude do not depend on what was changed."""

_AT_ONCE = 1 << 20


class Trial:
    """One model that is run on small samples.

    Args:
        runner: The model.
        outputs: Names of the outputs that count.
    """

    def __init__(self, runner: ort.InferenceSession, outputs: Sequence[str]) -> None:
        self._runner, self._outputs = runner, list(outputs)

    def outputs(self, feeds: Mapping[str, Array]) -> list[Array]:
        """What the model gives.

        Raises:
            TargetError: It does not run.
        """
        return list(flat(run(self._runner, feeds, self._outputs)))

    def influence(self, before: Sequence[Array], feeds: Mapping[str, Array]) -> float:
        """The number of output elements that other feeds change, finite ones only."""
        after = self.outputs(feeds)
        if len(before) != len(after):  # a sequence has another length
            return float(sum(map(np.size, after)))
        return math.fsum(map(_moved, before, after))

    def differs(self, before: Sequence[Array], others: Iterable[Feeds]) -> bool:
        """Whether any of other feeds changes outputs."""
        return any(self.influence(before, feeds) > 0 for feeds in others)


def finite_share(outputs: Sequence[Array]) -> float:
    """The part of the elements of floating-point outputs that is finite; 1 where there are none."""
    floats = [output for output in outputs if is_float(output) and output.size]
    total = sum(map(np.size, floats))
    if total:
        return sum(int(np.isfinite(output).sum()) for output in floats) / total
    return 1.0


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
            if is_shown:
                shown += moved
            else:
                hidden += moved
    if shown + hidden:
        return (shown - hidden) / (shown + hidden)
    return 0.0


def is_float(output: Array) -> bool:
    """Whether it holds floats; numpy calls those of 8 bits and bfloat16 something else."""
    return output.dtype.kind not in "biuOSU"


def _moved(before: Array, after: Array) -> float:
    if before.shape != after.shape:
        return float(max(before.size, after.size))
    if not is_float(before):
        return float((before != after).sum())
    top = max((float(np.abs(old).max(initial=0.0)) for old, _ in _finite(before, after)), default=0.0)
    return float(sum(int((np.abs(old - new) > MOVED * top).sum()) for old, new in _finite(before, after)))


def _finite(before: Array, after: Array) -> Iterator[tuple[Array, Array]]:
    """What both have finite elements at, as float64, some at a time: copies of large outputs would take their memory
    several times."""
    for start in range(0, before.size, _AT_ONCE):
        old, new = (each.reshape(-1)[start : start + _AT_ONCE].astype(np.float64) for each in (before, after))
        both = np.isfinite(old) & np.isfinite(new)
        yield old[both], new[both]
