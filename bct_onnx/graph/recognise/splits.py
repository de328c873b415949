"""The split of ``[B, S, H*D]`` into heads ``[B, H, S, D]`` by ``Reshape`` and ``Transpose``, and its reverse."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from bct_onnx.graph import tensors
from bct_onnx.graph.known import size_of
from bct_onnx.graph.neighbours import made_by, readers_of


@dataclasses.dataclass(frozen=True)
class Split:
    """Where heads come from.

    Attributes:
        source: ``[B, S, H*D]``.
        shape: Its shape.
        heads: H.
    """

    source: ir.Value
    shape: ir.Shape
    heads: int


@dataclasses.dataclass(frozen=True)
class Join:
    """Where heads are put together again.

    Attributes:
        transpose: ``[B, H, S, D]`` to ``[B, S, H, D]``.
        reshape: From there to any shape.
        plain: Whether that shape is ``[B, S, H*D]``.
    """

    transpose: ir.Node
    reshape: ir.Node
    plain: bool


def split_of(value: ir.Value | None) -> Split | None:
    """The split that makes ``value``, if one does."""
    transpose = made_by(value, "Transpose")
    if transpose is None or not _swaps(transpose):
        return None
    reshape = made_by(transpose.inputs[0], "Reshape")
    if reshape is None or reshape.inputs[0] is None:
        return None
    source, heads = reshape.inputs[0], size_of(reshape.outputs[0], 2, rank=4)
    if source.shape is None or source.shape.rank() != 3 or heads is None or not _keeps(reshape):
        return None
    return Split(source, source.shape, heads)


def join_of(value: ir.Value) -> Join | None:
    """The reverse of a split that reads ``value``, if that is all that reads it."""
    transpose = _only_user(value, "Transpose")
    reshape = _only_user(transpose.outputs[0], "Reshape") if transpose is not None and _swaps(transpose) else None
    if transpose is None or reshape is None:
        return None
    target = tensors.small_constant(reshape.inputs[1])
    if target is not None and 0 in target[2:]:  # copies a size of the four dimensions
        return None
    result = reshape.outputs[0]
    return Join(transpose, reshape, result.shape is not None and result.shape.rank() == 3 and _keeps(reshape))


def _keeps(reshape: ir.Node) -> bool:
    """Whether batch and sequence stay what they are: copied by zeros, or known to be the same."""
    source, result = reshape.inputs[0], reshape.outputs[0]
    target = tensors.small_constant(reshape.inputs[1])
    if source is None or source.shape is None or result.shape is None:
        return False
    sizes = [] if target is None or reshape.attributes.get_int("allowzero") else target.tolist()
    copied = [axis for axis, size in enumerate(sizes) if size == 0]
    return all(axis in copied or _same(source.shape[axis], result.shape[axis]) for axis in (0, 1))


def _same(size: int | ir.SymbolicDim, other: int | ir.SymbolicDim) -> bool:
    return size == other and (isinstance(size, int) or size.value is not None)


def _swaps(transpose: ir.Node) -> bool:
    return list(transpose.attributes.get_ints("perm", ()) or ()) == [0, 2, 1, 3]


def _only_user(value: ir.Value, op_type: str) -> ir.Node | None:
    users = readers_of(value)
    fits = len(users) == 1 and not value.is_graph_output() and users[0].op_type == op_type and users[0].domain == ""
    if fits:
        return users[0]
    return None
