"""Tables of words in short rows."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.course import Course
from bct_onnx.errors import UsageError
from bct_onnx.forms.embeddings import Embedding, embeddings
from bct_onnx.graph import before, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.layers import layers
from bct_onnx.graph.names import map_values
from bct_onnx.quant import Error, mixed
from bct_onnx.quant.strips import slices_of
from bct_onnx.study.allocation import data, row_use
from bct_onnx.study.allocation.room import Room, is_large, width
from bct_onnx.tasks.calibration import CalibrationData

Matrix = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class ThinTables(Pass):
    """Write a table of words as a thin one whose rows a matrix makes long again.

    Why:
        Below one bit a value no format of single values is left, and a table is half of a small encoder. A sixth of the
        values in two bits takes a third of a bit; every word keeps a row of its own, those that no text has had too.
        Trained by ``distill``, these few directions are those that the task needs.

    Before/after:
        ``Gather(table[V, D], ids)`` becomes ``Add(MatMul(Gather(thin[V, R], ids), wide[R, D]), mean[D])``. Of all such
        products it is the one with the least error of the rows that are looked up, each by the share of lookups that is
        expected of it (see `bct_onnx.study.allocation.row_use`); alike without data. The thin rows are turned so that
        all of their values are of the same size, for few bits to lose as little as possible.

    Declines:
        Tables of fewer than 4,096 rows, that an output layer is tied to, that are read in another way too, whose rows
        are too short, or that hold values that are not finite.

    Options:
        width: R; 0 is a sixth of D.
        ratio: Only where formats alone do not make the model so many times smaller than fp32; 0 is always.

    Promise:
        None: the outputs are others until the model is trained.
    """

    name: ClassVar[str] = "thin-tables"
    stage: ClassVar[Stage] = Stage.TRIM
    promise: ClassVar[str] = "none"

    width: int = 0
    ratio: float = 0.0

    def __post_init__(self) -> None:
        if self.width < 0 or self.width % 8 or self.ratio < 0:
            raise UsageError(f"{self} is not allowed", fix="use a multiple of 8 as width, and a ratio such as 50")

    def apply(self, model: ir.Model) -> Applied:
        """Thin every table of words.

        Raises:
            GateError: There is a ratio, but no pass ahead stores a tensor of the model.
            UsageError: The calibration data cannot be read or used.
            TargetError: ONNX Runtime cannot run the model.
        """
        if self.ratio:
            plan = Room.of(model, layers(model.graph), self.ratio).plan()
            if not plan.thin:
                return Applied(model, note=plan.why)
        large: list[Embedding] = []
        declined: list[Declined] = []
        for table in embeddings(model):
            if table.value.graph is not model.graph:
                continue
            if reason := self._refusal(table):
                declined.append(Declined(table.name, reason, table.tensor.nbytes))
            else:
                large.append(table)
        if not large:
            return Applied(model, (), declined)
        shares = _shares(model, large)
        before.keep(model, rebuilt=True)
        outcomes = [self._thin(table, shares[table.name]) for table in large]
        return Applied.of(model, [*outcomes, *declined])

    def _refusal(self, table: Embedding) -> str:
        if len(table.tensor.shape) != 2 or table.layers or table.others or table.value.is_graph_output():
            return "it is not only looked up"
        rows, length = table.tensor.shape.numpy()
        if not is_large(rows, length):
            return f"{rows} rows of {length} values are few"
        if self.width < length:
            return ""
        return f"rows of {length} values are no longer than {self.width}"

    def _thin(self, table: Embedding, shares: row_use.Vector) -> Site | Declined:
        """Put a thin table in the place of one."""
        array, kind = tensors.array(table.tensor), table.tensor.dtype.numpy()
        count, length = array.shape
        narrow = self.width or width(length)
        mean, products = _moments(array, shares)
        if not np.isfinite(products).all():
            return Declined(table.name, "it holds values that are not finite", table.tensor.nbytes)
        wide = _turned(np.linalg.eigh(products)[1][:, : -narrow - 1 : -1].T)
        thin, error = np.empty((count, narrow), kind), Error()
        for part in slices_of(count, length, mixed.AT_ONCE):
            rows = array[part].astype(np.float64)
            thin[part] = (rows - mean) @ wide.T
            error += Error.of(rows.astype(np.float32), (thin[part] @ wide + mean).astype(np.float32))
        tensors.release(table.tensor)
        edit = Edit(table.lookups[0], table.name)
        stored = edit.constant(f"{table.name}.thin", thin)
        factor = edit.constant(f"{table.name}.wide", wide.astype(kind))
        offset = edit.constant(f"{table.name}.mean", mean.astype(kind))
        for lookup in table.lookups:
            below = Edit(lookup)
            product = below.op("MatMul", below.op("Gather", stored, lookup.inputs[1], name="thin"), factor)
            below.replace(lookup.outputs[0], below.op("Add", product, offset, name="long"))
        return Site(table.name, table.operators, f"rows of {narrow} values instead of {length}", error)


def _shares(model: ir.Model, tables: list[Embedding]) -> dict[str, row_use.Vector]:
    """The share of the lookups to be expected of each row, [V] by the name of its table."""
    CalibrationData.ahead(Course.of(model).following).leave(model)
    everything = data.read(model, 1).everything
    if everything is None:
        return {table.name: np.full(_count(table), 1 / _count(table)) for table in tables}
    counted = data.counts(model, [table.value for table in tables], everything.batches(64))
    return map_values(row_use.shares, counted)


def _count(table: Embedding) -> int:
    return int(table.tensor.shape.numpy()[0])


def _moments(table: npt.NDArray[np.floating], shares: row_use.Vector) -> tuple[Matrix, Matrix]:
    """Mean [D] and covariance [D, D] of the rows, by their shares."""
    length = table.shape[1]
    mean, products = np.zeros(length), np.zeros((length, length))
    for part in slices_of(len(table), length, mixed.AT_ONCE):
        rows = table[part].astype(np.float64)
        mean += shares[part] @ rows
        products += (rows * shares[part][:, None]).T @ rows
    return mean, products - np.outer(mean, mean)


def _turned(wide: Matrix) -> Matrix:
    """Orthogonal rows [R, D] turned at random, so that none of them has more to do than another."""
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(len(wide), len(wide))))
    return np.ascontiguousarray(turn @ wide)
