"""Samples on which a model that chooses between experts is sure of its choice.

With another expert a text is another, so a result has 5 dB or 40 by whether two scores were nearly the same: on such
texts nothing is learned of it. On the others each text for which another expert is chosen is an error of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from bct_onnx.runtime.session import run, session
from tests.fuzz.grown.builder import Array

CLEAR = 0.5
"""How far the largest score stays above the next, in standard deviations of all: five times the error of 20 dB, which
4-bit weights leave in few random products."""

DRAWN = 40
"""Samples that are drawn at most, of which the one with the clearest choices is taken."""

Sample = dict[str, Array]


class Choices:
    """The scores by which a model chooses.

    Args:
        model: The model.
        scores: Names of values [batch, choices]; none where it does not choose.
    """

    def __init__(self, model: onnx.ModelProto, scores: Sequence[str]) -> None:
        self._scores = list(scores)
        if self._scores:
            shown = onnx.ModelProto.FromString(model.SerializeToString())
            shown.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in scores)
            self._runner = session(shown.SerializeToString())

    def clear(self, draw: Callable[[], Sample]) -> Sample:
        """The first sample with which all rows choose clearly, or the clearest."""
        clearest = draw()
        if not self._scores:
            return clearest
        margin = self._margin(clearest)
        for _ in range(DRAWN):
            if margin >= CLEAR:
                break
            sample = draw()
            if (other := self._margin(sample)) > margin:
                clearest, margin = sample, other
        return clearest

    def _margin(self, sample: Sample) -> float:
        """The least distance of a row's largest score from the next, in standard deviations."""
        margins: list[Array] = []
        for scores in run(self._runner, sample, self._scores):
            ordered = np.sort(scores, axis=-1)
            margins.append((ordered[:, -1] - ordered[:, -2]) / scores.std())
        return float(np.min(margins))
