"""Measure a model for plans: the noise of every tensor in every format.

Noise is proportional to the squared error that a tensor adds to what it is multiplied into, and that error is cheap to
know for every format (`errors`). So each tensor is run in the model in one format only, `REFERENCE`, by its pass's own
solver, and the other formats follow from their errors.

One realization of an error says little of errors of that size: where outputs are few it may hit or miss them. So only
a share of a weight's columns is changed at a time, another one in every batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bct_onnx.errors import GateError
from bct_onnx.pipeline import Pipeline
from bct_onnx.planning import cache, errors, ranges, samples
from bct_onnx.planning.measured import Item, Measured, Option
from bct_onnx.planning.noise import Outputs
from bct_onnx.planning.stored import Prepared, Tensor, prepare
from bct_onnx.rewriting import Progress

REFERENCE = 3
"""Bits in which a tensor is run, in its pass's own block."""

SHARES = 4
"""Realizations of the error of a weight: parts of its sampled columns."""

SEQUENCES = 32, 64
"""Fewest and most sequences that noise is measured on; as many as take about `WORK` multiplications."""

WORK = 1e10

TRIED = 48
"""Columns, or rows, whose error is taken in every format."""

FREQUENT = 0.005
"""Share of the lookups from which on rows are measured apart: [CLS] and [SEP] are in every text, always alike."""


@dataclasses.dataclass(frozen=True)
class Format:
    """Bits and block of a tensor."""

    bits: int
    block: int | tuple[int, int]

    @property
    def options(self) -> dict[str, object]:
        """For a pass."""
        return {"bits": self.bits, "block": self.block}

    def __str__(self) -> str:
        block = "x".join(map(str, self.block)) if isinstance(self.block, tuple) else self.block
        return f"{self.bits}/{block}"


def measure(
    source: Path, passes: Pipeline, progress: Progress, *, folder: Path | None = None, row_ranges: bool = True
) -> Measured:
    """Measure a model, or look up what was measured before.

    Args:
        source: The float model.
        passes: All passes to run, the target's too.
        progress: Told what is being done.
        folder: Of the cache; None keeps nothing.
        row_ranges: Try ranges of rows of tables.

    Raises:
        InputModelError: The model cannot be used, or is quantized already.
        UsageError: The calibration data cannot be read or used.
        GateError: No tensor of the model is quantized by these passes.
        TargetError: ONNX Runtime cannot run the model.
    """
    progress("looking for measurements", 0, 0)
    entry = cache.Entry(folder, cache.key(source, passes, row_ranges))
    known = {one.name: one for one in _items(entry.content)}
    try:
        whole = entry.content["whole"]
        return Measured(
            tuple(known[name] for name in whole["names"]),
            int(whole["fixed_bits"]),
            int(whole["parameters"]),
            str(whole["unit"]),
            str(whole["source"]),
        )
    except (KeyError, TypeError, ValueError):
        pass  # nothing is known, or not everything
    prepared = prepare(source, passes, progress)
    bench = _Bench(prepared, passes, row_ranges)
    items: list[Item] = []
    for number, tensor in enumerate(prepared.tensors):
        progress(f"measuring {tensor.name}", number, len(prepared.tensors))
        items.append(known.get(tensor.name) or bench.item(tensor))
        entry.content["items"] = [one.as_dict() for one in items]
        entry.write()
    found = Measured(tuple(items), prepared.fixed_bits, prepared.parameters, bench.outputs.unit, bench.data.source)
    entry.content["whole"] = {"names": [one.name for one in items]} | {
        name: getattr(found, name) for name in ("fixed_bits", "parameters", "unit", "source")
    }
    entry.write()
    return found


def _items(content: Mapping[str, Any]) -> Iterator[Item]:
    """The tensors of a cache's entry, as far as they can be read."""
    found = content.get("items", ())
    for one in found if isinstance(found, list) else ():
        try:
            yield Item.of(one)
        except (KeyError, TypeError, ValueError):
            continue


class _Bench:
    """A model and all it takes to measure its tensors."""

    def __init__(self, prepared: Prepared, passes: Pipeline, row_ranges: bool) -> None:
        weights = sum(one.matrix().size for one in prepared.tensors if not one.is_table or one.is_tied)
        fewest, most = SEQUENCES
        count = int(np.clip(WORK / max(1, 32 * weights), fewest, most))
        self.model, self.row_ranges = prepared.model, row_ranges
        self.data = samples.read(prepared.model, tuple(passes), count)
        self.outputs = Outputs(prepared.model, [one.name for one in prepared.tensors], self.data.batches)
        tables = [one for one in prepared.tensors if one.is_table and not one.is_tied]
        everything = self.data.everything
        self.used = samples.counts(prepared.model, tables, iter(self.data.batches))
        counted = None if everything is None else samples.counts(prepared.model, tables, everything.batches(64))
        self.counted: Mapping[str, samples.Counts | None] = counted or dict.fromkeys(self.used)
        self.opset = int(prepared.model.graph.opset_imports.get("", 21))

    def item(self, tensor: Tensor) -> Item:
        """Measure one tensor."""
        formats = _formats(tensor)
        found = self._table(tensor, formats) if tensor.name in self.used else self._weight(tensor, formats)
        bad = next((one for one in found if not math.isfinite(one.noise)), None)
        if bad is not None:
            raise GateError("the outputs are not finite", where=f"{tensor.name} in {bad.formats[0]}")
        return Item(tensor.name, tensor.by.name, tensor.shape, tuple(found))

    def _weight(self, tensor: Tensor, formats: Sequence[Format]) -> list[Option]:
        """The options of a matrix, or of a table that is multiplied by as well."""
        tried = errors.sample(tensor, TRIED)
        lost = [self._error(tensor, tried, one) for one in formats]
        reference = _reference(tensor)
        noise = self._noise_of_weight(tensor, reference)
        per_error = noise / (self._error(tensor, tried, reference) or 1.0)
        sizes = [tensor.stored_bits(one.bits, one.block) for one in formats]
        return [
            Option((str(one),), size, per_error * each) for one, size, each in zip(formats, sizes, lost, strict=True)
        ]

    def _error(self, tensor: Tensor, columns: npt.NDArray[np.intp], one: Format) -> float:
        """Error of some columns rounded to the nearest: what a better solver gains is much the same in all formats."""
        left = errors.restored(tensor, columns, {**one.options, "solver": "nearest"}, self.opset)
        return float(errors.error(tensor, columns, left).sum())

    def _noise_of_weight(self, tensor: Tensor, one: Format) -> float:
        """Noise of a whole weight, from that of shares of its columns; a tied table's rows are too unlike for that."""
        exact = np.asarray(tensor.matrix(), dtype=np.float32)
        everything = np.arange(tensor.shape[1])
        columns = everything if tensor.is_tied else errors.sample(tensor)
        left = errors.restored(tensor, columns, one.options, self.opset)
        batches = len(self.outputs.tokens)
        shares = 1 if tensor.is_tied else min(SHARES, batches, len(columns))
        changed = []
        for share in range(shares):
            matrix = exact.copy()
            matrix[:, columns[share::shares]] = left[:, share::shares]
            changed.append({tensor.name: tensor.as_stored(matrix)})
        noise = self.outputs.noise([changed[batch % shares] for batch in range(batches)])
        return noise * tensor.shape[1] / (len(columns) / shares)

    def _table(self, tensor: Tensor, formats: Sequence[Format]) -> list[Option]:
        """The options of a table whose rows are looked up, whole and in ranges."""
        bounds = ranges.edges(tensor.shape[1])
        counted, used = self.counted[tensor.name], self.used[tensor.name]
        rows, weight = ranges.representatives(counted, bounds)
        often = (used if counted is None else counted) >= FREQUENT * max(1, used.sum())
        per_error = np.zeros(2)
        for kind in (False, True):
            per_error[int(kind)] = self._noise_per_error(tensor, np.where(often == kind, used, 0), _reference(tensor))
        weight = weight * per_error[often[rows].astype(int)]
        noise, bits = np.empty((len(formats), len(bounds) - 1)), np.empty((len(formats), len(bounds) - 1))
        for at, one in enumerate(formats):
            each = errors.error(tensor, rows, errors.restored(tensor, rows, one.options, self.opset))
            noise[at] = ranges.binned(rows, weight * each, bounds)
            bits[at] = [tensor.stored_bits(one.bits, one.block, int(size)) for size in np.diff(bounds)]
        whole = [
            Option((str(one),), tensor.stored_bits(one.bits, one.block), float(each.sum()))
            for one, each in zip(formats, noise, strict=True)
        ]
        if counted is None or tensor.shape[1] < ranges.SPLIT:
            return whole
        cuts = [cut for cut in ranges.splits(bounds, noise, bits) if len(cut.ranges) > 1]
        return whole + [
            Option(tuple(f"{formats[at]}@{first}-{last}" for first, last, at in cut.ranges), cut.bits, cut.noise)
            for cut in cuts
        ]

    def _noise_per_error(self, tensor: Tensor, used: samples.Counts, one: Format) -> float:
        """Noise of rows that are looked up so often, all of them changed, over their mean squared error per lookup."""
        rows = np.flatnonzero(used)
        if not len(rows):
            return 0.0
        left = errors.restored(tensor, rows, one.options, self.opset)
        mean = float((errors.error(tensor, rows, left) * used[rows]).sum() / self.used[tensor.name].sum())
        matrix = np.array(tensor.matrix(), dtype=np.float32)
        matrix[:, rows] = left
        changed = {tensor.name: tensor.as_stored(matrix)}
        return self.outputs.noise([changed] * len(self.outputs.tokens)) / (mean or 1.0)


def _reference(tensor: Tensor) -> Format:
    return Format(REFERENCE, tensor.block)


def _formats(tensor: Tensor) -> list[Format]:
    """What is tried: 2 to 4 bits in the pass's block, half and twice of it where it is a row of values, and 8 bits."""
    block = tensor.block
    if isinstance(block, tuple) or dict(tensor.by.options(defaults=True)).get("scale") == "shift":
        return [Format(bits, block) for bits in (2, 3, 4, 8)]
    blocks = dict.fromkeys(max(1, size) for size in (block // 2, block, 2 * block))
    return [Format(bits, size) for bits in (2, 3, 4) for size in blocks] + [Format(8, block)]
