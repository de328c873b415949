"""How many layers, and how wide tables, there is room for at a size that formats alone do not reach.

The least that a matrix takes is 2 bits a value, a table 1 bit. Beyond that a model has to have fewer of them: first its
tables become thin, then layers go (`Plan`). What is left gets its formats from the allocation, like any other model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import onnx_ir as ir

from bct_onnx.course import Course
from bct_onnx.graph.layers import Layer
from bct_onnx.graph.names import names_of
from bct_onnx.graph.neighbours import inputs_of
from bct_onnx.quant import Scheme, mixed
from bct_onnx.storable import Storable
from bct_onnx.study.allocation import tensors
from bct_onnx.study.allocation.embedding_noise import WORDS
from bct_onnx.study.allocation.options import MARGIN
from bct_onnx.tasks.calibration import CalibrationData

LEAST = 2
"""Bits of a matrix."""

THINNER = 6
"""Times that rows of thin tables are shorter."""

ROW_BITS = 2
"""Mean bits of their values: frequent rows get more, rows that were never seen one."""

MULTIPLE = 8
"""Of values of a row: mixed widths are packed into bytes."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a model has to give up for a size.

    Attributes:
        layers: How many stay.
        thin: Whether tables become thin.
        why: In words.
    """

    layers: int
    thin: bool
    why: str


@dataclasses.dataclass(frozen=True)
class Room:
    """Bits of the parts of a model, each as small as formats make it.

    Attributes:
        budget: Of the whole model.
        layers: Of each layer.
        tables: Of all large tables.
        thin: Of the same tables once they are thin.
        rest: Of all else.
    """

    budget: int
    layers: tuple[int, ...]
    tables: int
    thin: int
    rest: int

    @classmethod
    def of(cls, model: ir.Model, layers: Sequence[Layer], ratio: float) -> Room:
        """Ask the passes ahead what the parts take.

        Args:
            model: The float model, on its course.
            layers: The parts of it that repeat.
            ratio: Times smaller than fp32 that the model shall become.

        Raises:
            GateError: No pass ahead stores a tensor of the model.
        """
        course = Course.of(model)
        waiting, by_use = tensors.find(model, course), CalibrationData.ahead(course.following).file is not None
        names = [set(names_of(inputs_of(layer.nodes))) for layer in layers]
        parts, tables, thin, rest = [0] * len(layers), 0, 0, waiting.fixed_bits
        for _, tensor in waiting.by_pass:
            owner = next((number for number, read in enumerate(names) if tensor.name in read), None)
            length, rows = tensor.shape
            if tensor.is_table and not tensor.is_tied and is_large(rows, length):
                tables, thin = tables + _least(tensor, by_use), thin + _thin(tensor, by_use)
            elif owner is None:
                rest += _least(tensor, by_use)
            else:
                parts[owner] += _least(tensor, by_use)
        budget = int(32 * waiting.parameters / ratio * (1 - MARGIN))
        return cls(budget, tuple(parts), tables, thin, rest)

    def plan(self) -> Plan:
        """As many layers as there is room for; thin tables only where whole ones leave no room for all layers."""
        count = len(self.layers)
        whole = self.tables + self.rest + sum(self.layers)
        if whole <= self.budget:
            return Plan(count, False, "formats alone make it small enough")
        told = f"in the fewest bits it takes {whole / 8e6:.2f} MB of {self.budget / 8e6:.2f}"
        left = self.budget - self.thin - self.rest
        layer = max(self.layers, default=0)
        stay = count if not layer else max(1, min(count, left // layer))
        told += f": tables go from {self.tables / 8e6:.2f} to {self.thin / 8e6:.2f} MB in rows {THINNER} times shorter"
        if stay < count:
            told += f", and {stay} of {count} layers stay, {layer / 8e6:.2f} MB each"
        return Plan(stay, self.thin < self.tables, told)


def is_large(rows: int, length: int) -> bool:
    """Whether a table is one of words, whose rows can become thin.

    >>> is_large(30522, 384), is_large(512, 384), is_large(30522, 8)
    (True, False, False)
    """
    return rows >= WORDS and width(length) > 0


def width(length: int) -> int:
    """Values of a row of a thin table; 0 where rows are too short to be thinner.

    >>> width(384), width(768), width(12)
    (64, 128, 0)
    """
    thinner = MULTIPLE * math.ceil(length / THINNER / MULTIPLE)
    return thinner if 2 * thinner < length else 0


def _least(tensor: Storable, by_use: bool) -> int:
    """Bits in the smallest format; rows of a table have widths by their use where there is data."""
    k, n = tensor.shape
    if by_use and tensor.is_table and not tensor.is_tied and k % MULTIPLE == 0:
        return 8 * n * mixed.row_bytes(1 if n >= WORDS else LEAST, k, n)
    return tensor.stored_bits(_smallest(tensor))


def _thin(tensor: Storable, by_use: bool) -> int:
    """Bits of a table that is thin, and of the matrix that makes its rows long again."""
    k, n = tensor.shape
    bits = 8 * mixed.row_bytes(ROW_BITS, width(k), n) if by_use else 8 * _smallest(tensor).nbytes(width(k), 1)
    return n * bits + 4 * k * width(k)


def _smallest(tensor: Storable) -> Scheme:
    return tensor.scheme(LEAST, tensor.block if isinstance(tensor.block, tuple) else 2 * tensor.block)
