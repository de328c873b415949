"""Constants seen through operators that only lay them out anew: `Reshape`, `Squeeze`, `Unsqueeze`, `Transpose`, a part.

A `View` says how a constant is seen; `Views` makes the constant that is then stored in its stead. No data is read
before it is needed, so that memory does not grow with the model: parts of a tensor that lie in one piece of a file are
read from there, everything else is laid out when it is read.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from bct_onnx.graph import dims, operators, tensors
from bct_onnx.graph.known import are_ones, permuted, sizes_of, without_ones
from bct_onnx.graph.tensors import Array

_PARTS = ("Gather", "Slice", "Split")
_LAYOUTS = operators.named("view") | {"Transpose", *_PARTS}

Step = tuple[str, tuple[int, ...]]
"""``reshape`` to a shape, ``transpose`` by a permutation, or a ``part``: axis, start, stop."""


@dataclasses.dataclass(frozen=True)
class View:
    """A constant as it is seen.

    Attributes:
        source: The initializer.
        steps: What is done to it, in order.
        shape: What comes of it.
    """

    source: ir.Value
    steps: tuple[Step, ...]
    shape: tuple[int, ...]

    def reshape(self, *shape: int) -> View:
        """The same values in their order, in another shape."""
        if shape == self.shape:
            return self
        last = self.steps[-1:] and self.steps[-1][0] == "reshape"
        steps = self.steps[:-1] if last else self.steps
        return View(self.source, (*steps, ("reshape", shape)), shape)

    def transpose(self, *permutation: int) -> View:
        """Axes in another order."""
        if permutation == tuple(range(len(self.shape))):
            return self
        shape = tuple(permuted(self.shape, permutation))
        if without_ones(shape) == without_ones(self.shape) and 1 in shape:
            return self._moved_ones(permutation, shape)
        return View(self.source, (*self.steps, ("transpose", permutation)), shape)

    def part(self, axis: int, start: int, stop: int) -> View:
        """Elements ``start`` to ``stop`` along an axis."""
        if (start, stop) == (0, self.shape[axis]):
            return self
        shape = (*self.shape[:axis], stop - start, *self.shape[axis + 1 :])
        return View(self.source, (*self.steps, ("part", (axis, start, stop))), shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def is_transposed(self) -> bool:
        """Whether a ``Transpose`` of the matrix as it is stored says it all."""
        return self.steps == (("transpose", (1, 0)),)

    def array(self, stored: Array) -> Array:
        """What is seen of the data of the constant."""
        for kind, numbers in self.steps:
            if kind == "reshape":
                stored = stored.reshape(numbers)
            elif kind == "transpose":
                stored = stored.transpose(numbers)
            else:
                axis, start, stop = numbers
                stored = stored[(slice(None),) * axis + (slice(start, stop),)]
        return stored

    def _moved_ones(self, permutation: tuple[int, ...], shape: tuple[int, ...]) -> View:
        """A transposition that only moves axes of length 1 is a reshape, if the others keep their order."""
        others = [axis for axis in permutation if self.shape[axis] != 1]
        if others == sorted(others):
            return self.reshape(*shape)
        return View(self.source, (*self.steps, ("transpose", permutation)), shape)


def of(value: ir.Value | None) -> View | None:
    """The float constant behind ``value``, however it is laid out; None where there is none."""
    chain: list[tuple[ir.Node, ir.Value]] = []
    while value is not None and (node := value.producer()) is not None:
        if not _is_layout(node):
            return None
        chain.append((node, value))
        value = node.inputs[0]
    if value is None or not value.is_initializer() or value.is_graph_input() or value.const_value is None:
        return None
    tensor = value.const_value
    if not tensor.dtype.is_floating_point():
        return None
    view: View | None = View(value, (), tuple(tensor.shape.numpy()))
    for node, output in reversed(chain):
        view = None if view is None else _through(view, node, output)
    return view


def _through(view: View, node: ir.Node, output: ir.Value) -> View | None:
    if node.op_type in _PARTS:
        return _part(view, node, output)
    if node.op_type == "Transpose":
        return view.transpose(*(node.attributes.get_ints("perm") or tuple(range(len(view.shape)))[::-1]))
    shape = dims.of(output)
    sizes = sizes_of(shape or ())
    if shape is None or len(sizes) < len(shape) or math.prod(sizes) != view.size:
        return None
    return view.reshape(*sizes)


def _is_layout(node: ir.Node) -> bool:
    """Whether a node only lays out its first input, as constants say: none of its other inputs is computed."""
    known = all(value is None or tensors.small_constant(value) is not None for value in node.inputs[1:])
    return not node.domain and node.op_type in _LAYOUTS and known


def _part(view: View, node: ir.Node, output: ir.Value) -> View | None:
    """What a ``Gather`` of one index, a ``Slice`` along one axis or a ``Split`` takes of a constant."""
    numbers = list(map(tensors.small_constant, node.inputs[1:]))
    if node.op_type == "Slice":
        starts, ends, axes, steps = [*numbers, None, None][:4]
        if starts is None or ends is None or starts.size != 1 or (steps is not None and steps.item() != 1):
            return None
        axis = 0 if axes is None else int(axes.item()) % len(view.shape)
        start, stop, _ = slice(int(starts.item()), int(ends.item())).indices(view.shape[axis])
        return view.part(axis, start, max(start, stop))
    axis = node.attributes.get_int("axis", 0) % len(view.shape)
    if node.op_type == "Gather":
        index = numbers[0]
        if index is None or index.size != 1 or index.ndim > 1:
            return None
        start = int(index.item()) % view.shape[axis]
        part = view.part(axis, start, start + 1)
        if index.ndim:
            return part
        return part.reshape(*part.shape[:axis], *part.shape[axis + 1 :])
    place = list(node.outputs).index(output)
    if numbers and numbers[0] is not None:
        sizes = list(map(int, numbers[0]))
    else:
        sizes = [-(-view.shape[axis] // len(node.outputs))] * len(node.outputs)
    start = sum(sizes[:place])
    return view.part(axis, start, min(view.shape[axis], start + sizes[place]))


def readers(value: ir.Value) -> Iterator[ir.Node | None]:
    """The nodes that compute with a constant, however it is laid out for them; None for an output of the graph."""
    queue = [value]
    while queue:
        reached = queue.pop()
        if reached.is_graph_output():
            yield None
        for node, _ in reached.uses():
            if _is_layout(node):
                queue.extend(node.outputs)
            else:
                yield node


def twice(view: View, planned: Mapping[ir.Node, View]) -> str:
    """Why the constant would have to be stored twice if every node of ``planned`` got its view; empty if it need not.

    Nodes may share a view or have parts of their own: what stands for a constant must not be larger than it.
    """
    name, layouts = view.source.name, set[View]()
    for node in readers(view.source):
        other = planned.get(node) if node is not None else None
        if node is None or other is None or other.source is not view.source:
            user = "the graph, as an output," if node is None else node.op_type
            return f"'{name}' is used by {user} as well: it would be stored twice"
        layouts.add(other)
    stored = view.source.const_value
    assert stored is not None
    if sum(layout.size for layout in layouts) > stored.size:
        return f"'{name}' is used in several layouts"
    return ""


class Views:
    """The constants made of views in one run over a model; one that is wanted again is the same.

    `finish` at the end: what stands for all of a constant that nobody uses any more takes over its name.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._made: dict[View, ir.Value] = {}

    def constant(self, view: View, name: str = "") -> ir.Value:
        """The value that holds what is seen."""
        if not view.steps:
            return view.source
        if view not in self._made:
            label = name or view.source.name or "weight"
            self._made[view] = tensors.constant(self._graph, label, _tensor(view))
        return self._made[view]

    def finish(self) -> None:
        """Drop constants that are no longer used and give their names to what stands for them."""
        for view, constant in self._made.items():
            name = view.source.name
            if name is None or list(readers(view.source)):
                continue
            for node in view.source.consumers():
                _drop(node)
            self._graph.initializers.pop(name, None)
            if view.source.const_value is not None and view.size == view.source.const_value.size:
                view.source.name = None
                self._rename(constant, name)

    def _rename(self, value: ir.Value, name: str) -> None:
        self._graph.initializers.pop(value.name or "")
        value.name = name
        if value.const_value is not None:
            value.const_value.name = name
        self._graph.register_initializer(value)


def _drop(node: ir.Node) -> None:
    for user in node.successors():
        _drop(user)
    if node.graph is not None:
        node.graph.remove(node, safe=True)


def _tensor(view: View) -> ir.TensorProtocol:
    """The data of a view, which is read when it is wanted."""
    stored = view.source.const_value
    assert stored is not None
    start = _offset(view)
    if isinstance(stored, ir.ExternalTensor) and start is not None and stored.dtype.bitwidth >= 8:
        step = stored.dtype.bitwidth // 8
        offset, length = (stored.offset or 0) + start * step, view.size * step
        shape = ir.Shape(view.shape)
        return ir.ExternalTensor(
            stored.location, offset, length, stored.dtype, shape=shape, name="view", base_dir=stored.base_dir
        )

    def laid_out() -> ir.TensorProtocol:
        data = np.ascontiguousarray(view.array(tensors.array(stored)))
        tensors.release(stored)
        return ir.Tensor(data, dtype=stored.dtype)

    return ir.LazyTensor(laid_out, dtype=stored.dtype, shape=ir.Shape(view.shape), name="view")


def _offset(view: View) -> int | None:
    """How many values lie before those of a view that are one piece of the constant; None where they are not."""
    assert view.source.const_value is not None
    shape, start = tuple(view.source.const_value.shape.numpy()), 0
    for kind, numbers in view.steps:
        if kind == "transpose":
            return None
        if kind == "reshape":
            shape = numbers
            continue
        axis, first, stop = numbers
        if not are_ones(shape[:axis]):
            return None
        start += first * math.prod(shape[axis + 1 :])
        shape = (*shape[:axis], stop - first, *shape[axis + 1 :])
    return start
