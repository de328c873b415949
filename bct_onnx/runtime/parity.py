"""How close a rewritten model stays to its original: one set of figures, computed in a stream over samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort

from bct_onnx.errors import UsageError
from bct_onnx.runtime.session import run

Arrays = Sequence[np.ndarray[Any, Any]] | Mapping[str, np.ndarray[Any, Any]]

_CHUNK = 2**20  # elements turned to float64 at a time


@dataclass(frozen=True)
class Parity:
    """Difference of a candidate's outputs from the reference's, over all elements of all samples.

    With r the reference and c the candidate, both flattened and joined:

    * `max_abs` = max |r - c|; `rms` = sqrt(mean (r - c)^2), both in the unit of the output
    * `sqnr_db` = 10 log10(sum r^2 / sum (r - c)^2), infinite when equal
    * `cosine` = r.c / (|r| |c|)
    * `top1` = fraction of rows (last axis, at least 2 columns) with the same largest column; None without such rows.
      The total over several outputs counts the first such output only, which exporters make the main one.

    A position where both are NaN, or the same infinity, counts as equal. A NaN or infinity that only the candidate has
    makes `finite` False and is left out of the other figures, as is a position where only the reference is not finite.
    """

    max_abs: float
    rms: float
    sqnr_db: float
    cosine: float
    top1: float | None
    samples: int
    source: str = ""
    finite: bool = True
    outputs: Mapping[str, Parity] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """Whether every output of every sample is the same."""
        return self.finite and self.max_abs == 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity: figures that are not finite become None."""
        figures = {name: getattr(self, name) for name in ("max_abs", "rms", "sqnr_db", "cosine", "top1")}
        result: dict[str, Any] = {
            name: value if value is None or math.isfinite(value) else None for name, value in figures.items()
        }
        result |= {"exact": self.exact, "finite": self.finite, "samples": self.samples, "source": self.source}
        if self.outputs:
            result["outputs"] = {name: parity.as_dict() for name, parity in self.outputs.items()}
        return result


def compare_outputs(
    reference: Iterable[Arrays], candidate: Iterable[Arrays], *, names: Sequence[str] = (), source: str = ""
) -> Parity:
    """Parity of two streams of outputs, one entry per sample. Outputs are paired by position, not by name.

    Args:
        reference: Per sample, the arrays of the original model.
        candidate: The same from the model under test.
        names: Names for the per-output figures; by default the keys of the first reference sample, or positions.
        source: Where the samples came from, kept in the result.

    Raises:
        UsageError: There are no samples, or the number of samples, outputs or the shape of an output differs.
    """
    sums: list[_Sums] = []
    samples = 0
    for left, right in zip(_end_marked(reference), _end_marked(candidate), strict=False):
        if left is None or right is None:
            if left is not right:
                raise UsageError("the two models were not run on the same number of samples")
            break
        names = names or (list(left) if isinstance(left, Mapping) else [str(i) for i in range(len(left))])
        references, candidates = _arrays(left), _arrays(right)
        if len(references) != len(candidates):
            raise UsageError(
                "the models do not have the same number of outputs",
                why=f"{len(references)} in the reference, {len(candidates)} in the candidate",
                fix="compare models exported for the same task",
            )
        sums = sums or [_Sums() for _ in references]
        for name, accumulator, r, c in zip(names, sums, references, candidates, strict=True):
            accumulator.add(name, r, c)
        samples += 1
    if not samples:
        raise UsageError("there are no samples to compare on")
    outputs = {name: s.parity(samples, source) for name, s in zip(names, sums, strict=True)}
    return _Sums.total(sums).parity(samples, source, outputs)


def measure_parity(
    reference: ort.InferenceSession,
    candidate: ort.InferenceSession,
    feeds: Iterable[Mapping[str, np.ndarray[Any, Any]]],
    *,
    source: str = "",
) -> Parity:
    """Run both models on every feed and compare; inputs are matched by name, outputs by position.

    Raises:
        UsageError: The models differ in their number of outputs, or a model lacks a feed.
        TargetError: One of them fails to run.
    """
    feeds = list(feeds)
    names = [output.name for output in reference.get_outputs()]
    return compare_outputs(
        (run(reference, feed) for feed in feeds), (run(candidate, feed) for feed in feeds), names=names, source=source
    )


class _Sums:
    """What has to be kept of the samples seen so far."""

    def __init__(self) -> None:
        self.count = self.rows = self.same_top = 0
        self.error = self.signal = self.other = self.dot = self.max_abs = 0.0
        self.finite = True

    def add(self, name: str, reference: np.ndarray[Any, Any], candidate: np.ndarray[Any, Any]) -> None:
        if reference.shape != candidate.shape:
            raise UsageError(
                f"output '{name}' has another shape",
                why=f"{list(reference.shape)} in the reference, {list(candidate.shape)} in the candidate",
            )
        columns = reference.shape[-1] if reference.ndim else 1
        if not reference.size:
            return
        left, right = reference.reshape(-1, columns), candidate.reshape(-1, columns)
        step = max(1, _CHUNK // columns)
        for start in range(0, len(left), step):
            self._add_rows(left[start : start + step], right[start : start + step])

    def _add_rows(self, left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> None:
        if left.shape[1] >= 2:
            self.rows += len(left)
            self.same_top += int(np.count_nonzero(np.argmax(left, axis=1) == np.argmax(right, axis=1)))
        r, c = left.astype(np.float64).ravel(), right.astype(np.float64).ravel()
        usable = np.isfinite(r) & np.isfinite(c)
        if not usable.all():
            same = (r == c) | (np.isnan(r) & np.isnan(c))
            self.finite &= bool((np.isfinite(c) | same).all())
            r, c = r[usable], c[usable]
        error = r - c
        self.count += r.size
        self.max_abs = max(self.max_abs, float(np.max(np.abs(error), initial=0.0)))
        self.error += float(error @ error)
        self.signal += float(r @ r)
        self.other += float(c @ c)
        self.dot += float(r @ c)

    def parity(self, samples: int, source: str, outputs: Mapping[str, Parity] | None = None) -> Parity:
        return Parity(
            max_abs=self.max_abs,
            rms=math.sqrt(self.error / self.count) if self.count else 0.0,
            sqnr_db=_decibels(self.signal, self.error),
            cosine=_cosine(self),
            top1=self.same_top / self.rows if self.rows else None,
            samples=samples,
            source=source,
            finite=self.finite,
            outputs=outputs or {},
        )

    @staticmethod
    def total(parts: Sequence[_Sums]) -> _Sums:
        result = _Sums()
        for part in parts:
            for name in ("count", "error", "signal", "other", "dot"):
                setattr(result, name, getattr(result, name) + getattr(part, name))
            result.max_abs = max(result.max_abs, part.max_abs)
            result.finite &= part.finite
            if not result.rows:
                result.rows, result.same_top = part.rows, part.same_top
        return result


def _cosine(sums: _Sums) -> float:
    if sums.error == 0.0:
        return 1.0
    norm = math.sqrt(sums.signal) * math.sqrt(sums.other)
    return min(1.0, max(-1.0, sums.dot / norm)) if norm else 0.0


def _decibels(signal: float, error: float) -> float:
    if error == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / error) if signal > 0.0 else -math.inf


def _arrays(outputs: Arrays) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(a) for a in (outputs.values() if isinstance(outputs, Mapping) else outputs)]


def _end_marked(stream: Iterable[Arrays]) -> Iterable[Arrays | None]:
    yield from stream
    yield None
