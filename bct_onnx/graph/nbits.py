"""A stored 4-bit weight for the operator MatMulNBits of `com.microsoft`, from the bytes that are stored anyway.

MatMulNBits reads codes [N, K / block, block / 2], low nibble first, 8 for zero, and one float scale per block. That is
how a table [V, D] lies in a file (`bct_onnx.graph.tables`). So a weight is written as the table of its transpose, once,
and both the operator and the int8 matrix of `bct_onnx.graph.weights` are made from it when a session is created. Block
scales are multiplier times column scale: a product the two-level format defines exactly so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from bct_onnx.graph import tables, tensors, weights
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.weights import Stored

DOMAIN = "com.microsoft"
BITS = 4
"""ONNX Runtime has kernels of 2 and 8 bits too, which at one row are slower than an int8 matrix, and none of 3."""

_PER_BYTE = 8 // BITS
_ZERO = 1 << (BITS - 1)
_LARGEST = _ZERO - 1


def refusal(stored: Stored) -> str:
    """Why a weight cannot be given to MatMulNBits; empty where it can."""
    if stored.zero_points is not None or stored.multipliers is None:
        return "MatMulNBits gets symmetric 4-bit codes in blocks only"
    block = stored.block[1 if stored.transposed else 0]
    if stored.block[0 if stored.transposed else 1] != 1:
        return f"its blocks are {stored.block[1]} columns wide; those of MatMulNBits have one"
    if block < 16 or block & (block - 1):
        return f"MatMulNBits takes blocks of a power of two from 16, not {block}"
    if stored.dtype != ir.DataType.FLOAT:
        return "half precision"
    if stored.transposed:
        bits = _unpacked(stored.codes, "bits")
        if bits != BITS or _unpacked(stored.codes, "offset") != _ZERO or _unpacked(stored.multipliers, "bits") != 4:
            return f"its codes have {bits or 3} bits" if bits != BITS else "its codes are unsigned"
        return f"blocks of {block} do not divide its {stored.k} rows" if stored.k % block else ""
    if not (stored.codes.is_initializer() and stored.codes.dtype == ir.DataType.INT4):
        return "MatMulNBits gets symmetric 4-bit codes in blocks only"
    assert stored.multipliers.is_initializer()
    return "" if int(tensors.array(stored.multipliers).max()) <= _LARGEST else "its multipliers are unsigned"


def as_rows(model: ir.Model, stored: Stored) -> Stored:
    """The weight, stored as rows of its transpose: the same numbers in as many bytes; as it is where it is stored so.

    Rows are filled up to whole blocks with codes of 0.
    """
    if stored.transposed:
        return stored
    producer = stored.float32.producer()
    assert producer is not None and stored.multipliers is not None
    name = (stored.codes.name or "weight").removesuffix(".codes")
    edit = Edit(producer, name)
    block = stored.block[0]
    codes = tensors.array(stored.codes).astype(np.int8).T
    codes = np.pad(codes, ((0, 0), (0, -stored.k % block)))
    multipliers = tensors.array(stored.multipliers).astype(np.int8).T
    rows = weights.packed(edit, f"{name}.rows", codes, BITS)
    factors = weights.packed(edit, f"{name}.factors", multipliers, 4)
    table = tables.Table(rows, factors, stored.scale, BITS, block, stored.k, stored.n)
    tensors.release(stored.codes)
    weight = tables.as_weight(model, edit, table)
    edit.replace(stored.float32, weight)
    again = weights.read(weight)
    assert again is not None and again.transposed
    return again


def constants(stored: Stored) -> tuple[ir.Value, ir.Value, dict[str, Any]]:
    """Codes, block scales and attributes for MatMulNBits, computed from the constants of a weight stored as rows."""
    producer, unpack = stored.float32.producer(), stored.codes.producer()
    assert producer is not None and unpack is not None and stored.multipliers is not None
    edit = Edit(producer, (producer.name or "weight").removesuffix("/weight"))
    block = stored.block[1]
    blocks = -(-stored.k // block)
    shape = edit.shape("nbits", [stored.n, blocks, block // _PER_BYTE])
    codes = edit.op("Reshape", unpack.inputs[0], shape, name="nbits")
    factors = edit.op("Cast", stored.multipliers, to=ir.DataType.FLOAT, name="factors")
    scale = edit.op("Unsqueeze", stored.scale, edit.shape("last", [-1]), name="column_scales")
    scales = edit.op("Mul", factors, scale, name="block_scales")
    options = {"K": stored.k, "N": stored.n, "bits": BITS, "block_size": block, "accuracy_level": 4}
    return codes, scales, options


def _unpacked(codes: ir.Value, attribute: str) -> int | None:
    node = codes.producer()
    return node.attributes.get_int(attribute) if node is not None and node.op_type == "Unpack" else None
