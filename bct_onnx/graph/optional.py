"""Optional inputs: initializers that are graph inputs as well, so that a caller may give something else.

Since IR version 4 such an initializer is a default, not a constant (adapters of LoRA are given this way). So that no
pass takes it for one, it is an input and nothing else while passes run: its default waits in the value's ``meta``, and
whoever serializes the model meanwhile (to run it, for instance) gets it with its defaults.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import onnx_ir as ir

from bct_onnx.graph.names import names_of
from bct_onnx.graph.neighbours import read_by

DEFAULT = "bct_onnx.default"
"""Key in `onnx_ir.Value.meta` under which an optional input's default waits, an `onnx_ir.TensorProtocol`."""

_FIRST_IR_VERSION = 4
"""Before it every initializer had to be listed as an input, and was a constant all the same."""


def is_optional(value: ir.Value) -> bool:
    """Whether ``value`` is an input with a default."""
    return value.is_graph_input() and (DEFAULT in value.meta or value.is_initializer())


@contextlib.contextmanager
def set_aside(model: ir.Model) -> Iterator[None]:
    """Within the block optional inputs of ``model`` are inputs of which only what they declare is known."""
    values = [value for value in model.graph.inputs if value.is_initializer() and value.const_value is not None]
    if model.ir_version < _FIRST_IR_VERSION:
        values = []
    _take(model, values)
    try:
        yield
    finally:
        _give(model, values)


@contextlib.contextmanager
def restored(model: ir.Model) -> Iterator[None]:
    """Within the block optional inputs that were set aside have their defaults."""
    values = [value for value in model.graph.inputs if DEFAULT in value.meta]
    _give(model, values)
    try:
        yield
    finally:
        _take(model, values)


def _take(model: ir.Model, values: list[ir.Value]) -> None:
    for value in values:
        value.meta[DEFAULT] = value.const_value
        del model.graph.initializers[value.name or ""]
        value.const_value = None


def _give(model: ir.Model, values: list[ir.Value]) -> None:
    for value in values:
        value.const_value = value.meta.pop(DEFAULT)
        model.graph.register_initializer(value)


def dependent(model: ir.Model) -> set[str]:
    """Names of the values of the main graph that are computed from an optional input, so that its default alone says
    nothing of their ranges."""
    reached = set(names_of(filter(is_optional, model.graph.inputs)))
    for node in model.graph if reached else ():
        if reached & set(names_of(read_by(node))):
            reached |= set(names_of(node.outputs))
    return reached
