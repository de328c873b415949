"""Exact size accounting: what a parameter takes in a file, and the three ratios that are always reported together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from ml_dtypes import int2, int4, uint2, uint4

_SUB_BYTE = {np.dtype(int4): 4, np.dtype(uint4): 4, np.dtype(int2): 2, np.dtype(uint2): 2}


def stored_bits(dtype: npt.DTypeLike, count: int) -> int:
    """Bits that `count` values take in an ONNX file: packed below a byte, whole bytes in total.

    >>> stored_bits(uint4, 3), stored_bits(np.float16, 3)
    (16, 48)
    """
    kind = np.dtype(dtype)
    return -(-_SUB_BYTE.get(kind, 8 * kind.itemsize) * count // 8) * 8


class Sized(Protocol):
    """What takes room: a tensor, an array, a weight of an inventory."""

    @property
    def nbytes(self) -> int:
        """Its bytes."""


def total_nbytes(constants: Iterable[Sized]) -> int:
    """Bytes that some tensors or arrays take together."""
    return sum(constant.nbytes for constant in constants)


@dataclass(frozen=True)
class SizeSummary:
    """Size of a model before and after.

    Args:
        parameters: Number of parameters of the input model.
        stored_parameter_bytes: Bytes of every initializer of the output: codes, multipliers, scales, biases, norms.
        file_bytes_in: Bytes of everything the input model is made of.
        file_bytes_out: Bytes of everything written.

    >>> SizeSummary(1000, 500, 4100, 640).ratio_parameters
    8.0
    """

    parameters: int
    stored_parameter_bytes: int
    file_bytes_in: int
    file_bytes_out: int

    @property
    def ratio_parameters(self) -> float:
        """fp32 parameter bits over stored parameter bits."""
        return 32 * self.parameters / (8 * self.stored_parameter_bytes)

    @property
    def ratio_file(self) -> float:
        """Input bytes over output bytes."""
        return self.file_bytes_in / self.file_bytes_out

    @property
    def bits_per_weight(self) -> float:
        """Stored parameter bits per parameter of the input model."""
        return 8 * self.stored_parameter_bytes / self.parameters
