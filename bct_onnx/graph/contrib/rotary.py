"""Rotary embeddings of ONNX Runtime, to the standard ``RotaryEmbedding``."""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.graph.contrib.lifting import Lift, Rule
from bct_onnx.graph.known import rank_of, size_of


def rotary(lift: Lift) -> list[ir.Value | None] | str:
    """``RotaryEmbedding``: its positions may be one offset for all rows, and its input ``[B, S, N*H]`` or four axes."""
    x, positions, cosines, sines = map(lift.given, range(4))
    if lift.number("is_packed_batching", 0):
        return "its batch is packed, which no standard operator takes"
    if rank_of(x) not in (3, 4) or rank_of(positions) not in (1, 2):
        return "the number of dimensions of its input or positions is not known"
    heads = _heads(lift, x, cosines)
    if heads is None:
        return "the size of its heads is not known"
    if rank_of(positions) == 1:
        positions = _counted(lift, x, positions)
    attributes: dict[str, int] = {"num_heads": heads} if rank_of(x) == 3 else {}
    for name in ("interleaved", "rotary_embedding_dim"):
        if number := int(lift.number(name, 0)):
            attributes[name] = number
    return [lift.typed("RotaryEmbedding", x, cosines, sines, positions, name="rotated", **attributes)]


def _heads(lift: Lift, x: ir.Value, cosines: ir.Value) -> int | None:
    """The number of heads; by the size of the cosines where it is not stated."""
    if rank_of(x) == 4:
        return 0
    if count := int(lift.number("num_heads", 0)):
        return count
    width, half = size_of(x, 2), size_of(cosines, 1, rank=2)
    if width is None or half is None:
        return None
    return width // (2 * half)


def _counted(lift: Lift, x: ir.Value, offset: ir.Value) -> ir.Value:
    """``[B, S]`` positions from an offset ``[1]`` on."""
    axis = 1 if rank_of(x) == 3 else 2
    batch, length = lift.size(x, 0), lift.size(x, axis)

    def make() -> ir.Value:
        along = lift.count_to(lift.op("Squeeze", length, name="length"), ir.DataType.INT64, "along")
        shape = lift.op("Concat", batch, length, axis=0, name="positions_shape")
        return lift.op("Expand", lift.op("Add", along, offset, name="from_offset"), shape, name="positions")

    return lift.once(("positions", id(batch), id(length), id(offset)), make)


RULES: dict[str, Rule] = {"RotaryEmbedding": rotary}
