"""Codes of 1 to 6 or 8 bits packed into bytes, for storage where ONNX has no type or an operator takes none.

The little end comes first, as in ONNX INT4 and INT2: with 4 bits byte `i` holds code `2i` in its low nibble and code
`2i + 1` in its high nibble; with 2 bits it holds code `4i + j` in bits `2j` and `2j + 1`; with 1 bit code `8i + j` in
bit `j`.

3 bits go as bit planes: 8 codes take 3 bytes, and byte `p` of the group holds bit `p` of all 8, code `j` in bit `j`.
So with `b` reshaped to groups of 3 bytes, `code[8 * g + j] = sum over p of ((b[3 * g + p] >> j) & 1) << p`, which a
graph computes with BitShift and BitwiseAnd.

5 and 6 bits go as two slices of each row, one behind the other: first the low 4 bits of all codes, then the 1 or 2 that
are above them, each slice packed as codes of so many bits.

Where the axis is not a multiple of the group, codes of 0 fill it up.
"""

from __future__ import annotations

from math import ceil, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from bct_onnx.quant.strips import slices_of

UInt8 = npt.NDArray[np.uint8]

LOW = 4
"""Bits of the lower slice of codes of 5 and 6 bits."""

_AT_ONCE = 1 << 17  # codes packed at a time: what is made of them on the way stays in the cache


def pack_nibbles(codes: npt.NDArray[np.integer[Any]], flip: int = 0) -> UInt8:
    """Codes of 4 bits, whatever their sign, packed along the last axis as `pack` does, but quicker.

    Args:
        codes: int8 or uint8; their upper four bits do not count.
        flip: 8 stores ``code + 8`` modulo 16, 0 the codes as they are.

    >>> pack_nibbles(np.array([1, -2, -1], np.int8)), pack_nibbles(np.array([1, -2, -1], np.int8), 8)
    (array([225,  15], dtype=uint8), array([105,   7], dtype=uint8))
    """
    rows = codes.reshape(prod(codes.shape[:-1]), codes.shape[-1])
    packed = np.empty((len(rows), packed_length(rows.shape[1], 4)), np.uint8)
    for some in slices_of(*rows.shape, _AT_ONCE):
        packed[some] = _pairs(rows[some], flip)
    return packed.reshape(*codes.shape[:-1], packed.shape[1])


def _pairs(rows: npt.NDArray[np.integer[Any]], flip: int) -> npt.NDArray[np.uint16]:
    """Bytes of two codes each, below a byte that does not count."""
    if rows.shape[1] % 2:
        rows = np.concatenate([rows, np.full((len(rows), 1), flip, rows.dtype)], axis=1)
    pairs = np.ascontiguousarray(rows).view("<u2") & np.uint16(0x0F0F)
    pairs ^= np.uint16(flip * 0x0101)
    pairs |= pairs >> np.uint16(4)
    return pairs


def pack(codes: UInt8, bits: int, *, axis: int = 0) -> UInt8:
    """Unsigned codes packed along one axis.

    Args:
        codes: uint8, every code below `2**bits`; signed codes as `code & (2**bits - 1)` or `code - code_min`.
        bits: 1 to 6 or 8.
        axis: The axis that shrinks, to `packed_length(length, bits)` bytes.

    Raises:
        ValueError: A code does not fit.

    >>> pack(np.array([1, 2, 15], np.uint8), 4)
    array([33, 15], dtype=uint8)
    """
    if codes.size and int(codes.max()) >> bits:
        raise ValueError(f"code {int(codes.max())} does not fit {bits} bits")
    moved = np.moveaxis(codes, axis, -1)
    if bits == 4:
        return np.ascontiguousarray(np.moveaxis(pack_nibbles(moved), -1, axis))
    if is_sliced(bits):
        slices = pack_nibbles(moved), pack(moved >> np.uint8(LOW), bits - LOW, axis=-1)
        return np.ascontiguousarray(np.moveaxis(np.concatenate(slices, axis=-1), -1, axis))
    per_group = _codes_per_group(bits)
    fill = -moved.shape[-1] % per_group
    if fill:
        moved = np.pad(moved, [(0, 0)] * (moved.ndim - 1) + [(0, fill)])
    groups = moved.reshape(*moved.shape[:-1], moved.shape[-1] // per_group, per_group)
    if bits == 3:
        planes = np.stack([_place(groups >> np.uint8(p) & np.uint8(1), 1) for p in range(3)], axis=-1)
        packed = planes.reshape(*moved.shape[:-1], 3 * groups.shape[-2])
    else:
        packed = _place(groups, bits)
    return np.ascontiguousarray(np.moveaxis(packed, -1, axis))


def unpack(packed: UInt8, bits: int, length: int, *, axis: int = 0) -> UInt8:
    """Inverse of `pack`: the first `length` codes along the axis.

    >>> unpack(np.array([33, 15], np.uint8), 4, 3)
    array([ 1,  2, 15], dtype=uint8)
    """
    moved = np.moveaxis(packed, axis, -1)
    if is_sliced(bits):
        split = packed_length(length, LOW)
        low, high = moved[..., :split], moved[..., split:]
        codes = unpack(low, LOW, length, axis=-1) | unpack(high, bits - LOW, length, axis=-1) << np.uint8(LOW)
        return np.ascontiguousarray(np.moveaxis(codes, -1, axis))
    per_group = _codes_per_group(bits)
    shifts = (np.arange(per_group) * (1 if bits == 3 else bits)).astype(np.uint8)
    if bits == 3:
        bit = moved.reshape(*moved.shape[:-1], moved.shape[-1] // 3, 3, 1) >> shifts & np.uint8(1)
        codes = _place(np.moveaxis(bit, -2, -1), 1)
    else:
        codes = moved[..., None] >> shifts & np.uint8((1 << bits) - 1)
    codes = codes.reshape(*moved.shape[:-1], -1)[..., :length]
    return np.ascontiguousarray(np.moveaxis(codes, -1, axis), dtype=np.uint8)


def packed_length(length: int, bits: int) -> int:
    """Bytes that `length` codes in a row take.

    >>> packed_length(9, 3), packed_length(9, 4)
    (6, 5)
    """
    if is_sliced(bits):
        return packed_length(length, LOW) + packed_length(length, bits - LOW)
    return ceil(length / _codes_per_group(bits)) * (3 if bits == 3 else 1)


def is_sliced(bits: int) -> bool:
    """Whether codes of so many bits lie in two slices, one behind the other."""
    return LOW < bits < 7


def packed_nbytes(shape: tuple[int, ...], bits: int) -> int:
    """Bytes an array of codes takes in an ONNX file: 2, 4 and 8 bits packed flat as ONNX does, others along axis 0."""
    if bits == 3 or is_sliced(bits):
        return packed_length(shape[0], bits) * prod(shape[1:])
    return packed_length(prod(shape), bits)


def _codes_per_group(bits: int) -> int:
    if bits not in (1, 2, 3, 4, 8):
        raise ValueError(f"cannot pack {bits} bits")
    return 8 if bits == 3 else 8 // bits


def _place(groups: UInt8, step: int) -> UInt8:
    """Byte whose bits from `step * j` on are value j of the last axis."""
    packed = groups[..., 0].copy()
    for j in range(1, groups.shape[-1]):
        packed |= groups[..., j] << np.uint8(step * j)
    return packed
