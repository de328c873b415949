"""How far a model's outputs are from the first model's on the same data: figures that do not saturate as scores do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bct_onnx.quant import Error
from bct_onnx.tasks.tokens import Array


@dataclass(frozen=True)
class Deviation:
    """Distance from a reference over all positions of all sequences.

    Attributes:
        error: Of the candidate's outputs; NaN where one is not finite.
        kl: Mean Kullback-Leibler divergence `sum p log(p / q)` in nats of the candidate's softmax q from the
            reference's p; None where the outputs are no logits of two classes or more.
        agreement: Fraction of positions with the same largest logit; None likewise.
    """

    error: Error
    kl: float | None
    agreement: float | None

    @property
    def sqnr_db(self) -> float:
        """Signal over error in dB; infinite when equal."""
        return self.error.sqnr_db


class DeviationSums:
    """What has to be kept of the positions seen so far."""

    def __init__(self, *, logits: bool) -> None:
        self._logits, self._comparable = logits, True
        self._error, self._kl = Error(), 0.0
        self._positions = self._same = 0

    def add(self, reference: Array, candidate: Array) -> None:
        """Compare one sequence's rows, [columns] or [positions, columns]. Other shapes end the comparison."""
        if reference.shape != candidate.shape:
            self._comparable = False
            return
        r, c = (np.atleast_2d(rows).astype(np.float32, copy=False) for rows in (reference, candidate))
        self._error += Error.of(r, c)
        self._logits &= r.shape[1] >= 2
        if self._logits:
            self._positions += len(r)
            self._same += int(np.count_nonzero((r.argmax(axis=1) == c.argmax(axis=1)) & ~np.isnan(c).any(axis=1)))
            self._kl += _divergence(r, c)

    def total(self) -> Deviation | None:
        """The figures; None when the two models' outputs are not of the same shape."""
        if not self._comparable:
            return None
        if not self._logits or not self._positions:
            return Deviation(self._error, None, None)
        kl = float(np.maximum(self._kl / self._positions, 0.0))  # rounding may fall below zero; NaN stays
        return Deviation(self._error, kl, self._same / self._positions)


def log_sum_exp(logits: Array) -> tuple[Array, Array]:
    """Logits [positions, columns] less their maximum, and the logarithm of the sum of their exponentials, float64.

    The exponentials are taken in the logits' own float type and summed in float64: relative error below 1e-6.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted, np.log(np.exp(shifted).sum(axis=1, dtype=np.float64))


def _divergence(reference: Array, candidate: Array) -> float:
    """Sum over positions of KL(softmax(reference) || softmax(candidate)), in nats."""
    with np.errstate(invalid="ignore"):
        (p, p_log), (q, q_log) = log_sum_exp(reference), log_sum_exp(candidate)
        expected = np.einsum("ij,ij->i", np.exp(p), p - q, dtype=np.float64) / np.exp(p_log)
        return float((expected - p_log + q_log).sum())
