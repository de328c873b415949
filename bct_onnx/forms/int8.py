"""Stored weights as int8 matrices with one scale per column, which the kernels of ONNX Runtime's CPU provider take.

All of it is arithmetic on constants, which ONNX Runtime does once when a session is created.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx_ir as ir

from bct_onnx.forms import packed
from bct_onnx.forms.weights import StoredWeight
from bct_onnx.graph import functions, tensors
from bct_onnx.graph.edit import Edit

NARROW = 64
"""Largest magnitude of int8 weights that is exact in every u8 x s8 kernel: 2 * 255 * 64 < 2**15."""


@dataclasses.dataclass(frozen=True)
class Int8Matrix:
    """A weight as ``(codes - zero_point) * scale``.

    Attributes:
        codes: [K, N], int8, or uint8 with a zero point.
        scale: float32, [N].
        zero_point: 128 as uint8, or None.
    """

    codes: ir.Value
    scale: ir.Value
    zero_point: ir.Value | None = None


class Matrices:
    """The weights of a model as int8 matrices; one that several products share is decoded once."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._decoded: dict[ir.Value, Int8Matrix] = {}

    def of(self, stored: StoredWeight) -> Int8Matrix:
        """The matrix of a weight.

        Kernels of CPUs without VNNI add pairs of u8 x s8 products in int16, which holds 2 * 255 * 64. Wider weights
        go unsigned: those kernels widen first, so the result is the same on every CPU.
        """
        if stored.float32 not in self._decoded:
            self._decoded[stored.float32] = self._decode(stored)
        return self._decoded[stored.float32]

    def _decode(self, stored: StoredWeight) -> Int8Matrix:
        edit = stored.edit()
        matrix, scale = int8(self._model, edit, stored), stored.column_scale(self._model, edit)
        if largest(stored) <= NARROW:
            return Int8Matrix(matrix, scale)
        middle = edit.scalar("middle", 128, ir.DataType.UINT8)
        wrapped = edit.op("Cast", matrix, to=ir.DataType.UINT8, name="wrapped")
        # BitwiseXor adds 128 within a byte: every step takes a byte per value, see `passes.lower_weights.FOLDED`.
        return Int8Matrix(edit.op("BitwiseXor", wrapped, middle, name="unsigned"), scale, middle)


def decoded(model: ir.Model, stored: StoredWeight) -> ir.Value:
    """The weight [K, N] in its float type, from its int8 matrix: folded at load, as DequantizeLinear is not."""
    edit = stored.edit()
    matrix, scale = int8(model, edit, stored), stored.column_scale(model, edit)
    wide = edit.op("Mul", edit.op("Cast", matrix, to=ir.DataType.FLOAT), scale, name="weight")
    return packed.typed(edit, wide, stored.dtype)


def int8(model: ir.Model, edit: Edit, stored: StoredWeight) -> ir.Value:
    """Operators on constants that give the weight as int8 [K, N], each column short of its scale."""
    rows, columns = stored.block
    matrix = stored.codes
    blocks: dict[str, Any] = {"rows": rows, "columns": columns}
    if stored.zero_points is not None:
        name, points = "DecodeInt8Offset", (stored.multipliers, stored.zero_points)
        matrix = edit.op(name, matrix, *points, domain=functions.use(model, name), **blocks)
    elif stored.multipliers is not None:
        name = "DecodeInt8"
        matrix = edit.op(name, matrix, stored.multipliers, domain=functions.use(model, name), **blocks)
    elif matrix.dtype != ir.DataType.INT8:
        matrix = edit.op("Cast", matrix, to=ir.DataType.INT8, name="int8")
    if stored.transposed:
        return edit.op("Transpose", matrix, perm=[1, 0])
    return matrix


def largest(stored: StoredWeight) -> int:
    """A bound on the magnitude of the values of `int8`, from the constants themselves."""
    if stored.codes.is_initializer():
        low, high = code_range(stored.codes)
    else:
        low, high = packed.code_range(stored.codes)
    if stored.zero_points is not None:
        zero_low, zero_high = value_range(stored.zero_points)
        low, high = low - zero_high, high - zero_low
    factor = 1 if stored.multipliers is None else max(map(abs, value_range(stored.multipliers)))
    return factor * max(abs(low), abs(high))


def code_range(codes: ir.Value) -> tuple[int, int]:
    """Bounds of a constant's codes: of 4 bits those of their type, as nearly every weight uses all of them."""
    if codes.dtype in (ir.DataType.INT4, ir.DataType.UINT4):
        return int(codes.dtype.min), int(codes.dtype.max)
    return value_range(codes)


def value_range(value: ir.Value) -> tuple[int, int]:
    """Least and largest integer of a constant; those of 4 bits of one that is not at hand."""
    if not value.is_initializer():
        return -8, 7
    array = tensors.array(value)
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    tensors.release(value)
    return low, high
