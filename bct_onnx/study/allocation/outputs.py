"""How much noise a changed tensor makes at the model's outputs.

One ONNX Runtime session runs the float model with every quantizable weight as an input. It runs once with the weights
as they are, then once per tensor with that tensor changed: no model is built or loaded twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from bct_onnx.graph import tensors
from bct_onnx.graph.names import names_of
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.session import run, session
from bct_onnx.tasks.deviation import DeviationSums
from bct_onnx.tasks.outputs import main_output

Array = np.ndarray[Any, Any]

VOCABULARY = 64
"""Logits of at least so many columns count by their KL divergence. Of a classifier's few logits it hangs on the few
texts that it is unsure about: noise over signal of the same outputs differs less from sample to sample (by 0.5 instead
of 0.7 in its logarithm)."""


class Outputs:
    """The float model's outputs on some inputs, to compare with.

    Args:
        model: The float model; it is not changed.
        names: Initializers that are going to be changed.
        batches: What to run on.
        pooling: How the vectors of tokens become that of a text: mean, first or last; None compares those of tokens.

    Attributes:
        unit: What noise is counted in: "KL" (nats per position), "noise/signal", or the same of pooled outputs.

    Raises:
        TargetError: ONNX Runtime cannot load or run the model.
    """

    def __init__(
        self, model: ir.Model, names: Iterable[str], batches: Sequence[Feeds], pooling: str | None = None
    ) -> None:
        clone = model.clone()
        self._weights: Feeds = {}
        for name in names:
            value = clone.graph.initializers.pop(name)
            self._weights[name] = tensors.array(value)
            value.const_value = None
            clone.graph.inputs.append(value)
        self._session = session(clone)
        self._output = main_output(names_of(self._session.get_outputs()))
        self._batches = batches
        self._pooling = pooling
        self._expected = [self._run(batch, {}) for batch in batches]
        self._by_kl = self._output == "logits" and self._expected[0].shape[-1] >= VOCABULARY
        self.unit = "KL" if self._by_kl else "noise/signal"
        if pooling is not None and not self._by_kl:
            self.unit = "noise/signal of pooled outputs"

    @property
    def batches(self) -> int:
        """Number of batches."""
        return len(self._batches)

    @property
    def width(self) -> int:
        """Columns of the outputs."""
        return int(np.atleast_1d(self._expected[0]).shape[-1])

    @property
    def size(self) -> int:
        """Numbers that the outputs have on all inputs together."""
        return sum(map(np.size, self._expected))

    def moved(self, changed: Mapping[str, Array]) -> Array:
        """By how much changed tensors move the outputs, [size]."""
        differences: list[Array] = []
        for batch, expected in zip(self._batches, self._expected, strict=True):
            result = self._run(batch, changed)
            differences.append(np.ravel(result.astype(np.float64) - expected).astype(np.float32))
        return np.concatenate(differences)

    def noise(self, changed: Sequence[Mapping[str, Array]], *, every: int = 1) -> float:
        """Noise of changed tensors: KL divergence of the logits, or squared error over squared signal.

        Args:
            changed: The tensors that are not as they were, by name: those of each batch, taken in turn.
            every: One batch in so many is run.
        """
        sums = DeviationSums(logits=self._by_kl)
        for number, (batch, expected) in enumerate(zip(self._batches[::every], self._expected[::every], strict=True)):
            width = np.atleast_1d(expected).shape[-1]
            result = self._run(batch, changed[number % len(changed)])
            sums.add(expected.reshape(-1, width), result.reshape(-1, width))
        total = sums.total()
        assert total is not None  # the shapes are those of the same model
        if total.kl is None:
            return total.error.ratio
        return total.kl

    def _run(self, batch: Feeds, changed: Mapping[str, Array]) -> Array:
        output: Array = run(self._session, {**batch, **self._weights, **changed}, [self._output])[0]
        if self._pooling is None or output.ndim != 3 or self._output == "logits":
            return output
        return _unit(output, self._pooling)


def _unit(vectors: Array, pooling: str) -> Array:
    """The vectors of texts without padding as they are compared, [rows, width] of length 1, from those of tokens."""
    if pooling == "mean":
        pooled = vectors.mean(axis=1, dtype=np.float64)
    else:
        pooled = vectors[:, 0 if pooling == "first" else -1].astype(np.float64)
    unit: Array = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
    return unit
