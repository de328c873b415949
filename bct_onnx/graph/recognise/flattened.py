"""Tokens that are flattened to rows in front of a matrix product, and unflattened behind it."""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.graph import dims


def leading(flat: ir.Node) -> dims.Dims | None:
    """The dimensions that become the rows where ``[..., K]`` or ``[..., heads, size]`` becomes ``[rows, K]``.

    The number of elements leaves no other choice for the rows once the last dimensions make up K.
    """
    shape, rows = dims.of(flat.inputs[0]), dims.of(flat.outputs[0])
    if shape is None or rows is None or len(rows) != 2:
        return None
    width = 1
    for axis in range(len(shape) - 1, 0, -1):
        size = shape[axis]
        if not isinstance(size, int) or size <= 0:
            return None
        width *= size
        if width == rows[1]:
            return shape[:axis]
    return None


def restores(gemm: ir.Node, leading: dims.Dims, reshape: ir.Node) -> bool:
    """Whether a ``Reshape`` of the product gives ``[*leading, N]``.

    One of the dimensions may be unknown: as the number of elements is the same, it follows from the others.
    """
    shape, rows = dims.of(reshape.outputs[0]), dims.of(gemm.outputs[0])
    if shape is None or rows is None or len(shape) != len(leading) + 1:
        return False
    unproven = 0
    for expected, size in zip((*leading, rows[-1]), shape, strict=True):
        if isinstance(expected, int) and isinstance(size, int) and expected != size:
            return False
        unproven += expected is None or expected != size
    return unproven <= 1


def is_vector(bias: ir.Value) -> bool:
    """Whether a bias has one number per column, axes of 1 before it left out."""
    shape = dims.of(bias)
    return shape is not None and len(shape) <= 2 and shape[:-1] in ((), (1,))
