"""How close a rewritten model stays to its original: one set of figures, computed in a stream over samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime as ort

from bct_onnx.errors import UsageError
from bct_onnx.figures import finite_of
from bct_onnx.graph.names import map_values, names_of
from bct_onnx.graph.padding.record import Removed
from bct_onnx.quant import Error
from bct_onnx.quant.strips import slices_of
from bct_onnx.runtime.outputs import Outputs, pairs
from bct_onnx.runtime.session import run

_CHUNK = 2**20  # elements turned to float64 at a time
_ROUNDING = 1e-11  # power of what float32 rounds off, beside the power of the values


@dataclass(frozen=True)
class Parity:
    """Difference of a candidate's outputs from the reference's, over all elements of all samples.

    With r the reference and c the candidate, both flattened and joined:

    * `max_abs` = max |r - c|; `rms` = sqrt(mean (r - c)^2), both in the unit of the output
    * `sqnr_db` = 10 log10(sum r^2 / sum (r - c)^2), infinite when equal
    * `cosine` = r.c / (|r| |c|)
    * `top1` = fraction of rows (last axis, at least 2 columns) with the same largest column; None without such rows.
      The total over several outputs counts the first such output only, which exporters make the main one.
    * `correlation` = of r and c without the mean of each column over all rows, which needs no input to be right;
      0 where c is constant, None where r is
    * `texts` = strings that are equal, and all strings; they are in no other figure. None without strings.
    * `silent` = why the figures say nothing, where the output does not vary with the inputs, for example. The total
      leaves such outputs out, unless there are no others.

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
    correlation: float | None = None
    texts: tuple[int, int] | None = None
    silent: str = ""

    @property
    def exact(self) -> bool:
        """Whether every output of every sample is the same; never where they say nothing."""
        if self.silent or not self.finite:
            return False
        return self.max_abs == 0.0 and (self.texts is None or self.texts[0] == self.texts[1])

    @property
    def telling(self) -> dict[str, Parity]:
        """The outputs that have figures which say something: numbers that vary with the inputs."""
        return {name: parity for name, parity in self.outputs.items() if not parity.silent and parity.texts is None}

    @property
    def worst(self) -> tuple[str, Parity]:
        """Name and figures of the output with the least SQNR: a large output must not hide a small one."""
        return min(self.telling.items(), key=lambda pair: pair[1].sqnr_db, default=("", self))

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity: figures that are not finite become None."""
        result: dict[str, Any] = {**finite_of(self, "max_abs", "rms", "sqnr_db", "cosine", "top1")}
        result |= {"exact": self.exact, "finite": self.finite, "samples": self.samples, "source": self.source}
        result |= {"correlation": self.correlation, "texts": self.texts, "silent": self.silent}
        if self.outputs:
            result["outputs"] = map_values(Parity.as_dict, self.outputs)
        return result


def compare_outputs(
    reference: Iterable[Outputs],
    candidate: Iterable[Outputs],
    *,
    names: Sequence[str] = (),
    source: str = "",
    silent: Mapping[str, str] = MappingProxyType({}),
) -> Parity:
    """Parity of two streams of outputs, one entry per sample. Outputs are paired by position, not by name.

    Args:
        reference: Per sample, the outputs of the original model.
        candidate: The same from the model under test.
        names: Names for the per-output figures; by default the keys of the first reference sample, or positions.
        source: Where the samples came from, kept in the result.
        silent: Why outputs say nothing, by name.

    Raises:
        UsageError: There are no samples, or the number of samples, outputs, or the shape or structure of an output
            differs.
    """
    sums: list[_Sums] = []
    samples = 0
    for left, right in zip(_end_marked(reference), _end_marked(candidate), strict=False):
        if left is None or right is None:
            if left is not right:
                raise UsageError("the two models were not run on the same number of samples")
            break
        names = names or (list(left) if isinstance(left, Mapping) else list(map(str, range(len(left)))))
        references, candidates = _listed(left), _listed(right)
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
    outputs: dict[str, Parity] = {}
    telling: list[_Sums] = []
    for name, output in zip(names, sums, strict=True):
        outputs[name] = output.parity(samples, source, silent=silent.get(name, ""))
        if name not in silent:
            telling.append(output)
    return _Sums.total(telling or sums).parity(
        samples, source, outputs, silent="" if telling else next(iter(silent.values()), "")
    )


def measure_parity(
    reference: ort.InferenceSession,
    candidate: ort.InferenceSession,
    feeds: Iterable[Mapping[str, np.ndarray[Any, Any]]],
    *,
    source: str = "",
) -> Parity:
    """Run both models on every feed and compare; inputs are matched by name, outputs by position.

    Of models whose padding was removed real tokens are compared alone.

    Raises:
        UsageError: The models differ in their number of outputs, or a model lacks a feed.
        TargetError: One of them fails to run.
    """
    feeds = list(feeds)
    names = names_of(reference.get_outputs())
    padding = Removed.in_session(candidate) or Removed.in_session(reference)

    def outputs(session: ort.InferenceSession) -> Iterable[Outputs]:
        for feed in feeds:
            sample = run(session, feed)
            yield sample if padding is None else padding.real(sample, feed, names)

    return compare_outputs(outputs(reference), outputs(candidate), names=names, source=source)


class _Sums:
    """What has to be kept of the samples seen so far."""

    def __init__(self) -> None:
        self.count = self.rows = self.same_top = self.texts = self.same_texts = 0
        self.error = self.signal = self.other = self.dot = self.max_abs = 0.0
        self.finite = True
        self._columns = _Columns()

    def add(self, name: str, reference: Any, candidate: Any) -> None:
        for left, right in pairs(name, reference, candidate):
            if left.dtype.kind in "OUS":
                self.texts += left.size
                self.same_texts += int(np.count_nonzero(left == right))
            elif left.size:
                self._add_numbers(left, right)

    def _add_numbers(self, reference: np.ndarray[Any, Any], candidate: np.ndarray[Any, Any]) -> None:
        columns = np.atleast_1d(reference).shape[-1]
        left, right = reference.reshape(-1, columns), candidate.reshape(-1, columns)
        for rows in slices_of(*left.shape, _CHUNK):
            self._add_rows(left[rows], right[rows])

    def _add_rows(self, left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> None:
        if left.shape[1] >= 2:
            self.rows += len(left)
            self.same_top += int(np.count_nonzero(np.argmax(left, axis=1) == np.argmax(right, axis=1)))
        r, c = left.astype(np.float64), right.astype(np.float64)
        usable = np.isfinite(r) & np.isfinite(c)
        if not usable.all():
            same = (r == c) | (np.isnan(r) & np.isnan(c))
            self.finite &= bool((np.isfinite(c) | same).all())
            r, c = np.where(usable, r, 0.0), np.where(usable, c, 0.0)
        self._columns.add(r, c, usable)
        r, c = r.ravel(), c.ravel()
        error = r - c
        self.count += int(np.count_nonzero(usable))
        self.max_abs = max(self.max_abs, float(np.max(np.abs(error), initial=0.0)))
        self.error += float(error @ error)
        self.signal += float(r @ r)
        self.other += float(c @ c)
        self.dot += float(r @ c)

    def parity(
        self, samples: int, source: str, outputs: Mapping[str, Parity] | None = None, *, silent: str = ""
    ) -> Parity:
        return Parity(
            max_abs=self.max_abs,
            rms=math.sqrt(self.error / self.count) if self.count else 0.0,
            sqnr_db=Error(self.error, self.signal).sqnr_db,
            cosine=_cosine(self),
            top1=self.same_top / self.rows if self.rows else None,
            samples=samples,
            source=source,
            finite=self.finite,
            outputs=outputs or {},
            correlation=self._columns.correlation(self.signal, self.other, self.dot),
            texts=(self.same_texts, self.texts) if self.texts else None,
            silent=silent,
        )

    @staticmethod
    def total(parts: Sequence[_Sums]) -> _Sums:
        result = _Sums()
        for part in parts:
            for name in ("count", "error", "signal", "other", "dot", "texts", "same_texts"):
                setattr(result, name, getattr(result, name) + getattr(part, name))
            result.max_abs = max(result.max_abs, part.max_abs)
            result.finite &= part.finite
            result._columns.join(part._columns)
            if not result.rows:
                result.rows, result.same_top = part.rows, part.same_top
        return result


class _Columns:
    """Sums of each column (last axis), for what is left without their means; one column where lengths differ."""

    def __init__(self) -> None:
        self._sums: np.ndarray[Any, Any] | None = None  # of r, of c, and their number, [3, columns]
        self._joined: list[_Columns] = []

    def add(self, r: np.ndarray[Any, Any], c: np.ndarray[Any, Any], usable: np.ndarray[Any, Any]) -> None:
        sums = np.stack([r.sum(axis=0), c.sum(axis=0), usable.sum(axis=0, dtype=np.float64)])
        if self._sums is not None and self._sums.shape != sums.shape:
            self._sums, sums = self._sums.sum(axis=1, keepdims=True), sums.sum(axis=1, keepdims=True)
        self._sums = sums if self._sums is None else self._sums + sums

    def join(self, other: _Columns) -> None:
        """Take in the columns of another output, which stay apart."""
        self._joined.append(other)

    def correlation(self, signal: float, other: float, dot: float) -> float | None:
        """Of the centred values, from the sums of r², c² and rc over all of them."""
        r2, c2, rc = signal, other, dot
        for sums in [columns._sums for columns in (self, *self._joined) if columns._sums is not None]:
            r, c, number = sums[:, sums[2] > 0]
            r2, c2, rc = r2 - float(r @ (r / number)), c2 - float(c @ (c / number)), rc - float(r @ (c / number))
        if r2 <= _ROUNDING * signal:
            return None
        if c2 > _ROUNDING * other:
            return min(1.0, max(-1.0, rc / math.sqrt(r2 * c2)))
        return 0.0


def _cosine(sums: _Sums) -> float:
    if sums.error == 0.0:
        return 1.0
    norm = math.sqrt(sums.signal) * math.sqrt(sums.other)
    if norm:
        return min(1.0, max(-1.0, sums.dot / norm))
    return 0.0


def _listed(outputs: Outputs) -> list[Any]:
    return list(outputs.values() if isinstance(outputs, Mapping) else outputs)


def _end_marked(stream: Iterable[Outputs]) -> Iterable[Outputs | None]:
    yield from stream
    yield None
