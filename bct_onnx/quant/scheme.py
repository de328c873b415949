"""A scheme says how a weight is stored: bits per code, block shape, and how the blocks get their scales.

It holds numbers only, no arrays; `bct_onnx.quant.blocks.quantize` applies it to a weight.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from math import ceil

from bct_onnx.errors import UsageError
from bct_onnx.quant.packing import packed_nbytes

BITS = (2, 3, 4, 5, 6, 8)
SCALES = ("two-level", "shift", "float16", "float32")
SEARCHES = ("mse", "max")
MULTIPLIER_BITS = 4


@dataclass(frozen=True)
class Scheme:
    """How one weight `w[K, N]` is stored, in blocks along K.

    Two-level and shift schemes store `w[k, n] = scale[n] * multiplier[k // block, n] * (code[k, n] - zero_point)`,
    where `multiplier * (code - zero_point)` fits int8; a shift scheme has powers of two for multipliers and scales.
    Float schemes store `w[k, n] = scale[k // block, n] * (code[k, n] - zero_point)`.

    Args:
        bits: Bits per code: 2 to 6 or 8.
        block: Values along K that share a scale, or (rows, columns) of a two-dimensional block. It need not divide
            K or N. With 8 bits and column scales every multiplier is 1, so a block is as high as the weight.
        symmetric: True: signed codes without zero point. False: unsigned codes and a zero point per block.
        scale: "two-level", "shift", "float16" or "float32".
        search: "mse": scales of least squared error. "max": the least scales that clip no value
            (zero points are whole codes, so with them the far end of a block may lose up to 0.1 steps more).
        reduce_range: True keeps `|multiplier * (code - zero_point)|` within 64, exact on every CPU, also where the
            u8 x s8 kernels add pairs in saturating int16 (255 * 64 * 2 < 2**15). False: within 127.
        signed_scales: True lets a block's multiplier (or float scale) be negative, so that its largest value takes the
            code `code_min`, which has no positive counterpart: the same size, 0.5 dB better at 4 bits and 0.9 dB at 2.
            Ignored where it cannot help: zero points, shifts, and 8 bits with column scales.

    Raises:
        UsageError: A field has a value that is not allowed.

    >>> print(Scheme(4, 32))
    int4 b32 two-level
    >>> Scheme(4, 32).multiplier_max, Scheme(4, 32, reduce_range=False).multiplier_max
    (8, 15)
    >>> Scheme(4, 32, signed_scales=True).multiplier_min, Scheme(4, 32, signed_scales=True).multiplier_max
    (-8, 7)
    """

    bits: int
    block: int | tuple[int, int]
    symmetric: bool = True
    scale: str = "two-level"
    search: str = "mse"
    reduce_range: bool = True
    signed_scales: bool = False

    def __post_init__(self) -> None:
        _one_of("bits", self.bits, BITS)
        _one_of("scale", self.scale, SCALES)
        _one_of("search", self.search, SEARCHES)
        sides = self.block if isinstance(self.block, tuple) else (self.block,)
        if len(sides) > 2 or not sides or any(type(side) is not int or side < 1 for side in sides):
            raise UsageError(f"block={self.block!r} is not allowed", fix="use a whole number from 1, or a pair of them")
        if not self.symmetric and self.scale == "shift":
            raise UsageError(
                "a shift scheme with zero points is not allowed", fix="use symmetric codes or scale=two-level"
            )
        if not self.symmetric and self.scale == "two-level" and self.bits == 8:
            raise UsageError(
                "8 bits with zero points and column scales do not fit int8",
                fix="use symmetric codes, fewer bits, or scale=float16",
            )
        if not self.symmetric and self.zero_point_bits not in (2, 4, 8):
            raise UsageError(f"{self.bits} bits with zero points are not allowed", fix="use symmetric codes")

    @property
    def block_shape(self) -> tuple[int, int]:
        """Rows (along K) and columns (along N) of a block."""
        if isinstance(self.block, tuple):
            return self.block
        return (self.block, 1)

    @property
    def is_integer(self) -> bool:
        """Whether the weight is an int8 matrix times one scale per column (two-level and shift)."""
        return self.scale in ("two-level", "shift")

    @property
    def limit(self) -> int:
        """Largest `|multiplier * (code - zero_point)|` allowed in an integer scheme."""
        return 64 if self.reduce_range else 127

    @property
    def code_min(self) -> int:
        """Smallest code."""
        if not self.symmetric:
            return 0
        if self.bits == 8 and self.is_integer:
            return -self.limit
        return -(1 << (self.bits - 1))

    @property
    def code_max(self) -> int:
        """Largest code."""
        if not self.symmetric:
            return (1 << self.bits) - 1
        if self.bits == 8 and self.is_integer:
            return self.limit
        return (1 << (self.bits - 1)) - 1

    @property
    def multiplier_bits(self) -> int:
        """Bits per stored multiplier; 0 where none are stored."""
        if self.is_integer and self.bits < 8:
            return MULTIPLIER_BITS
        return 0

    @property
    def mirrors(self) -> bool:
        """Whether scales of blocks may be negative."""
        return self.signed_scales and self.symmetric and self.scale != "shift" and -self.code_min != self.code_max

    @property
    def multiplier_max(self) -> int:
        """Largest multiplier: `multiplier * |code - zero_point| <= limit`; it fits UINT4, or INT4 if signed."""
        if not self.multiplier_bits:
            return 1
        largest = min(self._multiplier_limit, 7 if self.mirrors else 15)
        if self.scale == "shift":
            return 1 << (largest.bit_length() - 1)
        return largest

    @property
    def multiplier_min(self) -> int:
        """Smallest multiplier: 1, or negative (but none is 0) if scales of blocks may be."""
        if self.mirrors and self.multiplier_bits:
            return -min(self._multiplier_limit, 8)
        return 1

    @property
    def _multiplier_limit(self) -> int:
        return self.limit // (-self.code_min if self.symmetric else self.code_max)

    @property
    def zero_point_bits(self) -> int:
        """Bits per stored zero point: as the codes, but nibbles for 3 bits; 0 where none are stored."""
        if self.symmetric:
            return 0
        return 4 if self.bits == 3 else self.bits

    def grid(self, k: int, n: int) -> tuple[int, int]:
        """Blocks along K and N of a weight [k, n]."""
        rows, columns = self.block_shape
        return ceil(k / rows), ceil(n / columns)

    def nbytes(self, k: int, n: int, *, scale_bytes: int | None = None) -> int:
        """Bytes a weight [k, n] takes in the ONNX file.

        Args:
            k: Rows.
            n: Columns.
            scale_bytes: Bytes per scale; by default 4 for float32 scales, else 2 (what nearly every weight needs).
        """
        rows, columns = self.grid(k, n)
        scales = columns if self.is_integer else rows * columns
        total = packed_nbytes((k, n), self.bits) + scales * (scale_bytes or (4 if self.scale == "float32" else 2))
        return total + sum(packed_nbytes((rows, columns), b) for b in (self.multiplier_bits, self.zero_point_bits) if b)

    def bits_per_weight(self, k: int, n: int) -> float:
        """Stored bits per value of a weight [k, n], scales and all.

        >>> Scheme(4, 32).bits_per_weight(4096, 4096)
        4.12890625
        """
        return 8 * self.nbytes(k, n) / (k * n)

    def __str__(self) -> str:
        rows, columns = self.block_shape
        kind = f"{'int' if self.symmetric else 'uint'}{self.bits}"
        words = [kind, f"b{rows}" if columns == 1 else f"b{rows}x{columns}", self.scale]
        remarks = {
            "signed": self.mirrors,
            "max": self.search == "max",
            "full-range": self.is_integer and not self.reduce_range,
        }
        return " ".join([*words, *itertools.compress(remarks, remarks.values())])


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed or isinstance(value, bool):
        raise UsageError(f"{name}={value!r} is not allowed", fix=f"use one of {', '.join(map(str, allowed))}")
