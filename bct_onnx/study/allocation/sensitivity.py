"""What errors in the rows of a table do to the outputs: which channels count, and which errors cancel.

An error e in a row that is looked up moves the outputs by about J e. The mean of JᵀJ over lookups is to a table what
XᵀX of its inputs is to a matrix: `bct_onnx.quant.row_rounding` rounds by it. It is measured by running the model only:
one channel of all rows is moved at a time, each row by its own random sign, so that what rows do together cancels.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.base import Declined
from bct_onnx.forms.embeddings import embeddings
from bct_onnx.graph import tensors
from bct_onnx.progress import tell
from bct_onnx.runtime.statistics import SENSITIVITY
from bct_onnx.storable import Matrix
from bct_onnx.study.allocation import data
from bct_onnx.study.allocation.embedding_noise import WORDS
from bct_onnx.study.allocation.outputs import VOCABULARY, Outputs
from bct_onnx.tasks.calibration import CalibrationData

SAMPLES = 8
"""Numbers at the outputs that are looked at, per channel of the table."""

TEXTS = 8, 64
"""Fewest and most sequences that are run."""

WORK = 4e12
"""Multiplications by weights above which nothing is measured: some minutes. MiniLM takes 0.6e12, BERT-base 9e12."""

MOVED = 0.02
"""How far a channel moves, as a share of the length of its row: far enough for float32, and still nearly linear."""


def leave(model: ir.Model, tables: Iterable[ir.Value]) -> list[Declined]:
    """Measure the large ones of some tables of a float model and leave what was found in their ``meta``.

    Returns:
        Those of which nothing can be said, and why.

    Raises:
        UsageError: The calibration data cannot be read.
        TargetError: ONNX Runtime cannot run the model.
    """
    declined: list[Declined] = []
    for table in tables:
        assert table.const_value is not None  # a table is an initializer
        if table.const_value.shape.numpy()[0] < WORDS:
            continue
        measured, reason = _measured(model, table)
        if measured is not None:
            table.meta[SENSITIVITY] = measured
        else:
            declined.append(Declined(table.name or "", reason))
    return declined


def _measured(model: ir.Model, table: ir.Value) -> tuple[Matrix | None, str]:
    """The mean of JᵀJ, or why it is not known."""
    name, pooling = table.name or "", CalibrationData.of(model).pooling
    assert table.const_value is not None
    rows = np.array(tensors.array(table.const_value), np.float32)
    fewest, most = TEXTS
    some = data.read(model, fewest, together=True)
    outputs = Outputs(model, [name], some.batches, pooling)
    if outputs.width >= VOCABULARY and outputs.unit == "KL":
        return None, "what counts of logits of words is no squared error"
    sequences = max(fewest, -(-SAMPLES * rows.shape[1] * fewest // max(1, outputs.size)))
    if sequences > most:
        return None, f"its outputs are few: {sequences} texts would have to be run once per channel"
    if sequences > fewest:
        some = data.read(model, sequences, together=True)
        outputs = Outputs(model, [name], some.batches, pooling)
    counts = data.counts(model, [table], some.batches)[name]
    used, work = np.flatnonzero(counts), float(counts.sum()) * rows.shape[1] * _multiplied(model)
    if work > WORK:
        return (
            None,
            f"to move each of its {rows.shape[1]} channels takes {work:.0e} multiplications, more than {WORK:.0e}",
        )
    moved = _moved(outputs, name, rows, used)
    return moved @ moved.T, ""


def _moved(outputs: Outputs, name: str, rows: Matrix, used: npt.NDArray[np.intp]) -> Matrix:
    """By how much each channel of the rows [V, D] that are used moves the outputs, [D, numbers at the outputs]."""
    signs = np.random.default_rng(0).choice(np.array([-1.0, 1.0], np.float32), len(used))
    steps = MOVED * signs * np.linalg.norm(rows[used], axis=1).astype(np.float32)
    moved = np.empty((rows.shape[1], outputs.size), np.float32)
    for channel in range(rows.shape[1]):
        tell(f"channel {channel + 1} of {rows.shape[1]} of {name[-32:]}")
        exact = rows[used, channel]
        rows[used, channel] = exact + steps
        moved[channel] = outputs.moved({name: rows})
        rows[used, channel] = exact
    return moved


def _multiplied(model: ir.Model) -> int:
    """Values of all constants that are not looked up: each is multiplied by about once a token."""
    looked_up = {table.name for table in embeddings(model) if not table.layers}
    size = 0
    for value in model.graph.initializers.values():
        if value.name not in looked_up and value.const_value is not None:
            size += value.const_value.size
    return size
