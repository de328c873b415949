"""A tensor that a pass is going to store in few bits, and the format that it was allotted."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.graph import tensors
from bct_onnx.quant import Scheme, jobs, mixed
from bct_onnx.quant.strips import oriented
from bct_onnx.runtime.statistics import ChannelStatistics

Matrix = npt.NDArray[np.float32]

ALLOTTED = "bct_onnx.allotted"
"""Key in the ``meta`` of an initializer: its formats without names: ``3/32``, or ``@6(20)31`` for the widths of a
table's rows."""


@dataclasses.dataclass(frozen=True, eq=False)
class Storable:
    """A tensor that a pass is going to store in few bits.

    Attributes:
        value: The initializer in the float model.
        job: How the pass stores it unless a format is allotted: scheme, solver, and what its inputs are like.
        statistics: Of what it is multiplied by, as far as calibrated.
        is_table: Whether rows of it are looked up; they are columns of what the pass stores.
        is_tied: Whether it is both looked up and multiplied by.
        is_free: Whether it may be allotted a format: the user has given none, and the main graph owns it.
        widths: Bits of each row, where the user has given those.
        written: Bits that a target writes of what is stored in a scheme; None where it leaves that as it is.
    """

    value: ir.Value
    job: jobs.Job
    statistics: ChannelStatistics | None = None
    is_table: bool = False
    is_tied: bool = False
    is_free: bool = True
    widths: mixed.Widths | None = None
    written: Callable[[Scheme], int | None] = lambda scheme: None

    @property
    def name(self) -> str:
        """Of the initializer."""
        return self.value.name or ""

    @property
    def shape(self) -> tuple[int, int]:
        """K and N of what the pass stores."""
        return self.job.shape

    @property
    def block(self) -> int | tuple[int, int]:
        """The pass's own block."""
        return self.job.scheme.block

    def matrix(self) -> npt.NDArray[Any]:
        """What the pass stores, [K, N], in its own type."""
        assert self.value.const_value is not None  # it is an initializer
        return oriented(tensors.array(self.value.const_value), self.job.transposed)

    def as_initializer(self, matrix: Matrix) -> npt.NDArray[Any]:
        """A matrix [K, N] in the shape and type of the initializer."""
        assert self.value.const_value is not None
        dtype = self.value.const_value.dtype.numpy()
        return np.ascontiguousarray(oriented(matrix, self.job.transposed), dtype=dtype)

    def scheme(self, bits: int, block: int | tuple[int, int]) -> Scheme:
        """The pass's scheme with other bits and another block."""
        return dataclasses.replace(self.job.scheme, bits=bits, block=block)

    def stored_bits(self, scheme: Scheme) -> int:
        """Bits it takes in a scheme, scales and all, once the target has it; each row of a table begins at a byte."""
        k, n = self.shape
        if (bits := self.written(scheme)) is not None:
            return bits
        if self.widths is not None:
            return 8 * mixed.nbytes(self.widths, k)
        if self.is_table:
            return 8 * scheme.nbytes(k, 1) * n
        return 8 * scheme.nbytes(k, n)

    def decoded(self, matrix: Matrix, scheme: Scheme, *, nearest: bool = False) -> Matrix:
        """Some columns [K, n] of the tensor as they come back once stored: by the pass's own solver, or rounded."""
        job = dataclasses.replace(self.job, values=matrix, scheme=scheme, rows=None, transposed=False, packed=None)
        if nearest:
            job = dataclasses.replace(job, solver="nearest")
        return jobs.run(job).blocks.dequantize()


def allotted(values: Iterable[ir.Value]) -> list[str]:
    """The entries for a pass's option ``formats`` that lie beside these initializers."""
    entries: list[str] = []
    for value in values:
        for text in value.meta.get(ALLOTTED, ()):
            entries.append(f"{text}:{pattern(value.name or '')}")
    return entries


def pattern(name: str) -> str:
    """A pattern that fits the name of a tensor: ``|`` joins entries in a pipeline text, and ``?`` is any character."""
    return glob.escape(name).replace("|", "?")
