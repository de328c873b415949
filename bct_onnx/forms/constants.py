"""What depends on constants and fixed sizes alone: it is evaluated once, and the result stored."""

from __future__ import annotations

import collections
import math

import numpy as np
import onnx_ir as ir

from bct_onnx.base import Declined, Site
from bct_onnx.errors import TargetError
from bct_onnx.graph import dims, names, operators, shapes, tensors, walk
from bct_onnx.graph.branches import inline
from bct_onnx.graph.edit import drop_dead
from bct_onnx.graph.known import dtypes_of, is_sized, sized, sizes_of
from bct_onnx.graph.neighbours import inputs_of, provided
from bct_onnx.graph.tensors import Array
from bct_onnx.graph.unused import remove_unused_nodes
from bct_onnx.quant.sizes import total_nbytes
from bct_onnx.runtime.evaluation import Evaluator

LIMIT = 1 << 20
"""Bytes of the largest result that is stored, unless a pass says otherwise."""

_NEVER = operators.named("quantizer", "random") | {"Dropout", "Constant", "Identity"}
"""Folding quantizers would store the weights in float; Dropout is random in training, and without effect otherwise."""
_LAYOUTS = {"Transpose", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}


def fold(model: ir.Model, limit: int = LIMIT) -> tuple[list[Site], list[Declined]]:
    """Infer all shapes, and visit every node once, subgraphs included, in topological order.

    Args:
        model: Changed in place.
        limit: Bytes of the largest result that is stored.

    Returns:
        The constants made, reshapes whose shape is one now and sizes that are computed once; what stays, and why.
    """
    model.graph.sort()
    shapes.infer(model)
    folding = _Folding(model, limit)
    for node in list(model.graph.all_nodes()):
        folding.visit(node)
    remove_unused_nodes(model)
    return folding.sites(), folding.declined


class _Folding:
    """One run over a model: the constants made so far, and the operators they came from."""

    def __init__(self, model: ir.Model, limit: int) -> None:
        self.declined: list[Declined] = []
        self._model, self._limit = model, limit
        self._named = collections.Counter(names.names(model.graph))
        self._tracker = dims.Tracker()
        self._evaluator = Evaluator(model.opset_imports[""])
        self._origin: dict[ir.Value, tuple[str, ...]] = {}
        self._made: list[ir.Value] = []
        self._reshaped: list[Site] = []
        self._chosen: list[Site] = []
        self._shared: list[tuple[ir.Value, Site]] = []
        self._shapes: dict[tuple[int, ...], ir.Value] = {}
        self._sizes: dict[tuple[object, ...], ir.Value] = {}

    def sites(self) -> list[Site]:
        """The constants in use in the end, the reshapes whose shape was spelled out, and the sizes computed once."""
        sites: list[Site] = []
        for value in self._made:
            if value.uses():
                sites.append(Site(value.name or "", self._origin[value], _described(value)))
        sites += [*self._chosen, *self._reshaped]
        for value, site in self._shared:
            if value.uses():
                sites.append(site)
        return sites

    def visit(self, node: ir.Node) -> None:
        """Learn the shape of a node, and fold it if it can be."""
        if node.graph is None:  # went with a node after it
            return
        self._tracker.visit(node)
        if node.domain != "" or node.op_type in _NEVER:
            return
        for output in node.outputs:
            self._origin[output] = self._chain(node)
        if walk.holds_graphs(node):
            self._choose(node)
            return
        if node.op_type == "Reshape":
            self._spell_shape(node)
        symbolic = self._tracker.values.get(node.outputs[0])
        if all(map(_is_constant, provided(node.inputs))):
            results = self._evaluated(node)
        else:
            results = {0: numbers} if (numbers := _numbers(symbolic, node.outputs[0].dtype)) is not None else {}
        for place, result in results.items():
            if not node.outputs[place].is_graph_output():
                self._replace(node.outputs[place], result)
        drop_dead([node])
        if not results and symbolic is not None and None not in symbolic.flat:
            self._share(node, symbolic)

    def _choose(self, node: ir.Node) -> None:
        """The branch that an ``If`` always takes stands in its place."""
        condition = tensors.small_constant(node.inputs[0], 1) if node.op_type == "If" else None
        if condition is not None and condition.size:
            taken = "then_branch" if condition.item() else "else_branch"
            name = node.name or node.outputs[0].name or "If"
            inline(node, taken)
            self._chosen.append(Site(name, ("If",), f"always its {taken.replace('_', ' ')}"))

    def _chain(self, node: ir.Node) -> tuple[str, ...]:
        """The operators that compute a value, from the shape that it is about on."""
        steps: list[str] = []
        if node.op_type != "Shape":
            for value in inputs_of([node]):
                steps += self._origin.get(value, ())
        return tuple(dict.fromkeys([*steps, node.op_type]))

    def _spell_shape(self, node: ir.Node) -> None:
        """``Reshape(x, computed)`` becomes ``Reshape(x, [0, 0, 12, 32])``: 0 copies from ``x``, -1 is the rest."""
        x, shape = node.inputs[0], node.inputs[1]
        source, target = dims.of(x), self._tracker.shape(node) or dims.of(node.outputs[0])
        if shape is None or _is_constant(shape):
            return
        if source is None or target is None:
            self.declined.append(Declined(node.name or "Reshape", "its computed shape is not known"))
            return
        pairs = enumerate(zip(target, source, strict=False))
        copied = [i for i, (dim, other) in pairs if isinstance(dim, str) and dim == other]
        sizes = sized(target, -1)
        for i in copied:
            sizes[i] = 0
        if sizes.count(-1) > 1 or 0 in target:
            new = [_named(dim) for i, dim in enumerate(target) if i not in copied and not isinstance(dim, int)]
            self.declined.append(Declined(node.name or "Reshape", f"more than one new dimension: {', '.join(new)}"))
            return
        node.attributes.pop("allowzero", None)
        if tuple(sizes) not in self._shapes:
            self._shapes[tuple(sizes)] = tensors.constant(self._model.graph, f"{node.name}/shape", np.array(sizes))
        node.replace_input_with(1, self._shapes[tuple(sizes)])
        self._reshaped.append(Site(node.name or "", self._origin.get(shape, ()), f"shape {sizes}"))
        if (producer := shape.producer()) is not None:
            drop_dead([producer])

    def _share(self, node: ir.Node, symbolic: dims.Symbolic) -> None:
        """A size that is known by name is computed once, by the first node of the graph that does."""
        old = node.outputs[0]
        if old.is_graph_output() or len(node.outputs) > 1:
            return
        key = (node.graph, old.dtype, symbolic.shape, tuple(symbolic.flat))
        first = self._sizes.setdefault(key, old)
        producer = first.producer()
        if producer is not None and producer.graph is None:  # it has lost its uses since
            first = self._sizes[key] = old
        if first is not old:
            site = Site(first.name or "", self._origin[old], f"also '{old.name}': {symbolic.tolist()}")
            self._shared.append((first, site))
            old.replace_all_uses_with(first)
            drop_dead([node])

    def _evaluated(self, node: ir.Node) -> dict[int, Array]:
        """The results in use of a node on constants, by place; none, with the reason noted, when it is to stay."""
        used = [place for place, output in enumerate(node.outputs) if output.uses() or output.is_graph_output()]
        reason = self._refusal(node)
        if used and not reason:
            try:
                results = self._evaluator(node, used)
            except TargetError as error:
                reason = f"ONNX Runtime cannot compute it: {error.why}"
            else:
                nbytes = total_nbytes(results)
                if nbytes <= self._limit:
                    return dict(zip(used, results, strict=True))
                reason = _too_big(nbytes, self._limit)
        if reason:
            self.declined.append(Declined(node.name or node.op_type, reason, _nbytes(node.outputs[0]) or 0))
        return {}

    def _refusal(self, node: ir.Node) -> str:
        if any(map(ir.Value.is_graph_output, node.outputs)):
            return "is an output of the graph"
        if ir.DataType.STRING in dtypes_of((*node.inputs, *node.outputs)):
            return "computes with strings"
        weight = node.inputs[0] if node.op_type in _LAYOUTS else None
        if weight is not None and len(weight.uses()) > 1 and _is_matrix(weight):
            return f"'{weight.name}' is used elsewhere too: folding would store it twice"
        nbytes = _nbytes(node.outputs[0])
        if nbytes is not None and nbytes > self._limit:
            return _too_big(nbytes, self._limit)
        return ""

    def _replace(self, old: ir.Value, result: Array) -> None:
        name = _freed_name(old)
        new = tensors.constant(self._model.graph, name, result, free=self._named[name] == 1)  # not so in two branches
        old.replace_all_uses_with(new)
        self._origin[new] = self._origin[old]
        self._made.append(new)


def _numbers(value: dims.Symbolic | None, dtype: ir.DataType | None) -> Array | None:
    """A tensor of integers all of whose elements are known."""
    if value is None or dtype is None or not is_sized(value.flat):
        return None
    return value.astype(dtype.numpy())


def _is_constant(value: ir.Value) -> bool:
    return value.is_initializer() and not value.is_graph_input()


def _named(dim: str | None) -> str:
    if dim is None or dim.startswith("unk__"):  # the latter is made up by ONNX shape inference
        return "unknown"
    return dim


def _is_matrix(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point() and len(dims.of(value) or ()) > 1


def _freed_name(value: ir.Value) -> str:
    """The name of a value, which is left without: a constant is to take it over."""
    name, value.name = value.name or "", None
    return name


def _nbytes(value: ir.Value) -> int | None:
    shape = dims.of(value)
    if shape is None or value.dtype in (None, ir.DataType.UNDEFINED, ir.DataType.STRING):
        return None
    sizes = sizes_of(shape)
    if len(sizes) == len(shape):
        return math.ceil(math.prod(sizes) * value.dtype.itemsize)
    return None


def _too_big(nbytes: int, limit: int) -> str:
    return f"the result has {nbytes:,} bytes, more than the limit of {limit:,}"


def _described(value: ir.Value) -> str:
    data = tensors.small_constant(value, 8)
    if data is None:
        return f"{value.dtype} {list(dims.of(value) or ())}"
    return f"= {data.tolist()}"
