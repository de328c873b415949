"""What the graph itself declares about the size of a value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.graph.dims.arithmetic import Dim, Dims, parse

Symbolic = npt.NDArray[Any]
"""An object array of `Dim`: a small integer tensor some of whose elements are only known by name."""

SMALL = 64
"""Integer tensors of more elements are no shapes."""

FAR = 2**31 - 1
"""No size is larger than this; exporters write it, and numbers of 64 bits, for the end of an axis. Backwards nobody
should: ONNX says that this takes nothing, and ONNX Runtime goes on to the first element."""


def of(value: ir.Value | None) -> Dims | None:
    """The shape of a value as a tuple; None when even the rank is unknown.

    A negative size, which damaged files declare and ONNX Runtime does not look at, is one that is not known.
    """
    if value is None or value.shape is None:
        return None
    return tuple(map(_read, value.shape))


def _read(dim: int | ir.SymbolicDim) -> Dim:
    if isinstance(dim, int):
        if dim >= 0:
            return dim
        return None
    return parse(dim.value)


def given(node: ir.Node, index: int) -> bool:
    """Whether a node has an input there."""
    return index < len(node.inputs) and node.inputs[index] is not None


def refine(value: ir.Value, dims: Iterable[Dim] | None) -> None:
    """Replace the dimensions of ``value`` by those of ``dims`` that are known; declared outputs and numbers stay."""
    if dims is None or value.type is None or value.is_graph_output():  # a shape without a type cannot be written
        return
    new = tuple(dims)
    old = of(value)
    if old is not None and len(old) == len(new):
        new = tuple(was if isinstance(was, int) or now is None else now for was, now in zip(old, new, strict=True))
    value.shape = ir.Shape(new)
