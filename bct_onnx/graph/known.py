"""What is known of a value before anything runs: its type, its rank and the sizes of its axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import onnx_ir as ir

from bct_onnx.graph.neighbours import provided
from bct_onnx.quant.sizes import total_nbytes

T = TypeVar("T")


def dtype_of(value: ir.Value | None) -> ir.DataType | None:
    """The type of a value's elements; None where it is not known, and of no value."""
    if value is None:
        return None
    return value.dtype


def dtypes_of(values: Iterable[ir.Value | None]) -> list[ir.DataType | None]:
    """The types of the elements of some values, in order; those that are left out are not among them."""
    return list(map(dtype_of, provided(values)))


def type_of(dtype: ir.DataType | None) -> ir.TensorType | None:
    """The type of tensors of some elements; None where that is not known."""
    if dtype is None:
        return None
    return ir.TensorType(dtype)


def rank_of(value: ir.Value | None) -> int | None:
    """How many axes a value has; None where that is not known, and of no value."""
    if value is None or value.shape is None:
        return None
    return value.shape.rank()


def size_of(value: ir.Value | None, axis: int, rank: int | None = None) -> int | None:
    """How long an axis of a value is; None where that is no number, where there is no such axis, and of no value.

    Args:
        value: The value.
        axis: Its axis; negative ones count from the last.
        rank: How many axes it has to have, if that matters.
    """
    axes = rank_of(value)
    if value is None or value.shape is None or axes is None or not -axes <= axis < axes or rank not in (None, axes):
        return None
    size = value.shape[axis]
    if isinstance(size, int):
        return size
    return None


def constant_nbytes(value: ir.Value | None) -> int:
    """Bytes of an initializer; 0 for anything else."""
    return total_nbytes(provided([None if value is None else value.const_value]))


def initializer_nbytes(graph: ir.Graph) -> int:
    """Bytes of the initializers of a graph, those of its subgraphs apart."""
    return total_nbytes(provided(value.const_value for value in graph.initializers.values()))


def sizes_of(dims: Iterable[object]) -> list[int]:
    """Those of some dimensions that are numbers."""
    return [dim for dim in dims if isinstance(dim, int)]


def is_sized(dims: Iterable[object]) -> bool:
    """Whether all of some dimensions are numbers."""
    return all(isinstance(dim, int) for dim in dims)


def sized(dims: Iterable[object], size: T) -> list[int | T]:
    """The sizes of some dimensions; ``size`` for each that is no number."""
    return [dim if isinstance(dim, int) else size for dim in dims]


def permuted(dims: Sequence[T], perm: Iterable[int]) -> list[T]:
    """Sizes, or whatever else belongs to the axes of a value, in the order that they have when it is transposed."""
    return [dims[axis] for axis in perm]


def are_ones(dims: Iterable[object]) -> bool:
    """Whether all of some dimensions are 1, so that there is nothing along them."""
    return all(dim == 1 for dim in dims)


def without_ones(dims: Iterable[T]) -> list[T]:
    """Those of some dimensions that are not 1, in order."""
    return [dim for dim in dims if dim != 1]


def open_dims(shape: ir.Shape | None) -> list[str]:
    """What the dimensions of a shape are called that are no numbers; none where there is no shape."""
    return [str(dim) for dim in shape or () if not isinstance(dim, int)]


def from_start(axes: Iterable[int], rank: int) -> set[int]:
    """Axes counted from the first one; negative ones count from the last."""
    return {axis % rank for axis in axes}


def is_last_axis(axis: int, value: ir.Value | None) -> bool:
    """Whether an axis, which may count from the end, is known to be the last one of a value."""
    rank = rank_of(value)
    return axis == -1 or (rank is not None and axis == rank - 1)


def dims_of(shape: ir.Shape) -> tuple[int | str | None, ...]:
    """The sizes of a shape as numbers and names; None where there is neither."""
    dims: list[int | str | None] = []
    for dim in shape:
        dims.append(dim if isinstance(dim, int) else dim.value)
    return tuple(dims)
