"""The noise of every tensor of a model in every format.

Noise is proportional to the squared error that a tensor adds to what it is multiplied into, and that error is cheap to
know for every format (`tensor_error`). So each tensor is run in the model in one format only, `REFERENCE`, by its
pass's own solver, and the other formats follow from their errors.

One realization of an error says little of errors of that size: where outputs are few it may hit or miss them. So only
a share of a weight's columns is changed at a time, another one in every batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bct_onnx.course import Course
from bct_onnx.errors import GateError
from bct_onnx.graph.names import names_of
from bct_onnx.progress import tell
from bct_onnx.quant.scheme import BITS
from bct_onnx.storable import Storable
from bct_onnx.study.allocation import cache, data, embedding_noise, row_use, tensor_error, tensors
from bct_onnx.study.allocation.embedding_noise import Embedding
from bct_onnx.study.allocation.options import Format, NoiseTable, Option, TensorOptions
from bct_onnx.study.allocation.outputs import Outputs
from bct_onnx.tasks.calibration import CalibrationData

REFERENCE = 3
"""Bits in which a tensor is run, in its pass's own block."""

SHARES = 4
"""Realizations of the error of a weight: parts of its sampled columns."""

SEQUENCES = 16, 32
"""Fewest and most sequences that noise is measured on; as many as take about `WORK` multiplications."""

WORK = 5e9

FOR_TABLES = 4
"""Times as many sequences are run for tables: rare words, which lose most, are in few of them."""

TRIED = 48
"""Columns, or rows, whose error is taken in every format."""


def measured(model: ir.Model, course: Course, *, row_widths: bool = True) -> NoiseTable:
    """Measure a model that is ready to be stored, or look up what was measured of it before.

    Args:
        model: The float model; it is not changed.
        course: What follows, and where measurements are kept.
        row_widths: Try to give rows of tables widths of their own.

    Raises:
        GateError: The passes ahead store no tensor of the model, or its outputs are not finite.
        UsageError: The calibration data cannot be read or used.
        TargetError: ONNX Runtime cannot run the model.
    """
    waiting = tensors.find(model, course)
    row_widths = row_widths and not any(each.stores_rows_alike for each in course.following)
    entry = cache.Entry.of(course, row_widths)
    known = entry.known()
    table = entry.table()
    if table is not None and table.fixed_bits == waiting.fixed_bits:
        return table
    bench: _Bench | None = None
    options: list[TensorOptions] = []
    for number, (by, tensor) in enumerate(waiting.by_pass):
        tell(f"tensor {number + 1} of {len(waiting.by_pass)}, {tensor.name[-32:]}")
        if tensor.name not in known:
            bench = bench or _Bench(model, waiting, row_widths)
            known[tensor.name] = TensorOptions(tensor.name, by, tensor.shape, bench.options(tensor))
        options.append(known[tensor.name])
        entry.write(options)
    bench = bench or _Bench(model, waiting, row_widths)
    table = NoiseTable(
        tuple(options),
        waiting.fixed_bits,
        waiting.parameters,
        bench.outputs.unit,
        bench.data.source,
        bench.unseen,
    )
    entry.write(options, table)
    return table


class _Bench:
    """A model and all it takes to measure its tensors."""

    def __init__(self, model: ir.Model, waiting: tensors.Tensors, row_widths: bool) -> None:
        every = [tensor for _, tensor in waiting.by_pass]
        plain = [tensor for tensor in every if tensor.is_table and not tensor.is_tied]
        multiplied = sum(math.prod(tensor.shape) for tensor in every if tensor not in plain)
        fewest, most = SEQUENCES
        self._row_widths = row_widths
        count = int(np.clip(WORK / max(1, 32 * multiplied), fewest, most))
        self._every = FOR_TABLES if plain else 1
        self.data = data.read(model, count * self._every)
        names = names_of(every)
        self.outputs = Outputs(model, names, self.data.batches, CalibrationData.of(model).pooling)
        looked_up = [tensor.value for tensor in plain]
        self._used = data.counts(model, looked_up, self.data.batches)
        self._counted: dict[str, data.Counts] = {}
        self.unseen: float | None = None
        if plain and self.data.everything is not None:
            held_back, rest = self.data.split()
            apart = [data.counts(model, looked_up, part.batches(64)) for part in (held_back, rest)]
            self._counted = {name: apart[0][name] + apart[1][name] for name in apart[0]}
            words = [tensor.name for tensor in plain if tensor.shape[1] >= embedding_noise.WORDS]
            unseen = [row_use.unseen_share(apart[1][name], apart[0][name]) for name in words]
            self.unseen = max(unseen, default=None)

    def options(self, tensor: Storable) -> tuple[Option, ...]:
        """The ways to store a tensor.

        Raises:
            GateError: The outputs are not finite.
        """
        formats = _formats(tensor)
        if tensor.name in self._used:
            counted = self._counted.get(tensor.name)
            table = Embedding(tensor, self._used[tensor.name], counted, self.outputs, self.data.is_ours)
            options = table.options(formats, row_widths=self._row_widths)
        else:
            options = self._of_weight(tensor, formats)
        for option in options:
            if not math.isfinite(option.noise):
                raise GateError("the outputs are not finite", where=f"{tensor.name} in {option.formats[0]}")
        return tuple(options)

    def _of_weight(self, tensor: Storable, formats: Sequence[Format]) -> list[Option]:
        """The options of a matrix, or of a table that is multiplied by as well.

        Errors are those of rounding to the nearest: what a better solver gains is much the same in all formats.
        """
        columns = tensor_error.sample(tensor, TRIED)
        reference = Format(REFERENCE, tensor.block)
        _, lost = tensor_error.decoded(tensor, columns, reference, nearest=True)
        per_error = self._noise_of_weight(tensor, reference) / (float(lost.sum()) or 1.0)
        return tensor_error.options(tensor, columns, formats, lambda lost: per_error * lost)

    def _noise_of_weight(self, tensor: Storable, form: Format) -> float:
        """Noise of a whole weight, from that of shares of its columns; a tied table's rows are too unlike for that."""
        exact = np.asarray(tensor.matrix(), dtype=np.float32)
        columns = np.arange(tensor.shape[1]) if tensor.is_tied else tensor_error.sample(tensor)
        left, _ = tensor_error.decoded(tensor, columns, form)
        shares = 1 if tensor.is_tied else min(SHARES, -(-self.outputs.batches // self._every), len(columns))
        changed = []
        for share in range(shares):
            matrix = exact.copy()
            matrix[:, columns[share::shares]] = left[:, share::shares]
            changed.append({tensor.name: tensor.as_initializer(matrix)})
        return self.outputs.noise(changed, every=self._every) * tensor.shape[1] / (len(columns) / shares)


def _formats(tensor: Storable) -> list[Format]:
    """What is tried: 2 to 6 bits in the pass's block, half and twice of it where it is a row of values, and 8 bits."""
    block = tensor.block
    if isinstance(block, tuple) or tensor.job.scheme.scale == "shift":
        return [Format(bits, block) for bits in BITS]
    formats: list[Format] = []
    for bits in BITS[:-1]:
        for size in dict.fromkeys(max(1, size) for size in (block // 2, block, 2 * block)):
            formats.append(Format(bits, size))
    return [*formats, Format(8, block)]
