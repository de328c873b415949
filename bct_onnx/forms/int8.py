"""Stored weights as int8 matrices with one scale per column, which the kernels of ONNX Runtime's CPU provider take."""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.forms import weights
from bct_onnx.graph.edit import Edit

NARROW = 64
"""Largest magnitude of int8 weights that is exact in every u8 x s8 kernel: 2 * 255 * 64 < 2**15."""

Matrices = dict[int, tuple[ir.Value, ...]]
"""Decoded weights by the identity of their portable form."""


def int8_matrix(model: ir.Model, stored: weights.Stored, done: Matrices) -> tuple[ir.Value, ...]:
    """The matrix [K, N] and its float32 column scales [N]; int8, or uint8 and its zero point. ``done`` is shared.

    Kernels of CPUs without VNNI add pairs of u8 x s8 products in int16, which holds 2 * 255 * 64. Wider weights
    go unsigned: those kernels widen first, so the result is the same on every CPU.
    """
    producer = stored.float32.producer()
    assert producer is not None
    key = id(stored.float32)
    if key not in done:
        edit = Edit(producer, (stored.codes.name or "weight").removesuffix(".codes"))
        matrix, scale = weights.int8(model, edit, stored), weights.column_scale(model, edit, stored)
        done[key] = (matrix, scale)
        if weights.largest(stored) > NARROW:
            middle = edit.scalar("middle", 128, ir.DataType.UINT8)
            wrapped = edit.op("Cast", matrix, to=ir.DataType.UINT8, name="wrapped")
            shifted = edit.op("BitwiseXor", wrapped, middle, name="unsigned")  # adds 128 in a byte: see FOLDED
            done[key] = (shifted, scale, middle)
    return done[key]
