"""The noise of every tensor of a model in every format.

Noise is proportional to the squared error that a tensor adds to what it is multiplied into, and that error is cheap to
know for every format (`errors`). So each tensor is run in the model in one format only, `REFERENCE`, by its pass's own
solver, and the other formats follow from their errors.

One realization of an error says little of errors of that size: where outputs are few it may hit or miss them. So only
a share of a weight's columns is changed at a time, another one in every batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bct_onnx.errors import GateError
from bct_onnx.pipeline import Pipeline
from bct_onnx.planning import errors, samples
from bct_onnx.planning.errors import Format
from bct_onnx.planning.measured import Item, Option
from bct_onnx.planning.noise import Outputs
from bct_onnx.planning.stored import Prepared, Tensor
from bct_onnx.planning.tables import Table

REFERENCE = 3
"""Bits in which a tensor is run, in its pass's own block."""

SHARES = 4
"""Realizations of the error of a weight: parts of its sampled columns."""

SEQUENCES = 16, 64
"""Fewest and most sequences that noise is measured on; as many as take about `WORK` multiplications."""

WORK = 1e10

TRIED = 48
"""Columns, or rows, whose error is taken in every format."""


class Bench:
    """A model and all it takes to measure its tensors.

    Args:
        prepared: The model.
        passes: All passes; the calibration data is in calibrate.
        row_ranges: Try ranges of rows of tables.

    Raises:
        UsageError: The calibration data cannot be read or used.
        TargetError: ONNX Runtime cannot run the model.
    """

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
        """Measure one tensor.

        Raises:
            GateError: The outputs are not finite.
        """
        formats = _formats(tensor)
        if tensor.name in self.used:
            table = Table(tensor, self.used[tensor.name], self.counted[tensor.name], self.outputs, self.opset)
            found = table.options(formats, row_ranges=self.row_ranges)
        else:
            found = self._weight(tensor, formats)
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


def _reference(tensor: Tensor) -> Format:
    return Format(REFERENCE, tensor.block)


def _formats(tensor: Tensor) -> list[Format]:
    """What is tried: 2 to 4 bits in the pass's block, half and twice of it where it is a row of values, and 8 bits."""
    block = tensor.block
    if isinstance(block, tuple) or dict(tensor.by.options(defaults=True)).get("scale") == "shift":
        return [Format(bits, block) for bits in (2, 3, 4, 8)]
    blocks = dict.fromkeys(max(1, size) for size in (block // 2, block, 2 * block))
    return [Format(bits, size) for bits in (2, 3, 4) for size in blocks] + [Format(8, block)]
