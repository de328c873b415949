"""A linear layer that works on flattened tokens becomes a ``MatMul`` and an ``Add`` on the tokens as they are."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site
from bct_onnx.graph import dims, provenance
from bct_onnx.graph.edit import Edit, drop_dead

_FIXED = {"alpha": 1.0, "beta": 1.0, "transA": 0}


@dataclasses.dataclass(frozen=True)
class FuseLinear(Pass):
    """Lift ``Gemm`` between two ``Reshape`` to ``MatMul`` and ``Add`` on the value that was not flattened.

    Why:
        PyTorch's ``addmm``, the linear layer of GPT-2 and its kin, is exported as ``Gemm``, which knows matrices only,
        so the tokens are flattened before it and unflattened after it. Between a normalization and its weight then
        stands a ``Reshape``, behind which later passes do not see what they could smooth, and the sizes of batch and
        sequence are computed again for every layer.

    Before/after:
        ``Reshape(Gemm(Reshape(x, [-1, K]), W, b), [batch, sequence, N])`` becomes ``Add(MatMul(x, W), b)``. The bias may
        be missing; a weight with ``transB`` gets a ``Transpose`` in front. A ``Reshape`` that does not restore the
        dimensions of ``x``, but splits further (into heads, for example), stays and reads the ``Add``. The sizes need
        not all be known: if all dimensions but one are the same, the number of elements decides about the last.

    Declines:
        ``alpha``, ``beta`` or ``transA`` other than the defaults. A bias that is no vector. A result that is used as a
        matrix, or reshaped by a shape that may copy a dimension of the flattened value (0). A first ``Reshape`` that is
        not known to keep the last dimension. A ``Gemm`` that no ``Reshape`` feeds is no site at all.

    Options:
        None.

    Promise:
        Exact up to float rounding.

    >>> model = ir.from_onnx_text('''<ir_version: 10, opset_import: ["": 23]>
    ...     g (float[b,s,2] x, float[2,3] w, float[3] bias) => (float[b,s,3] y)
    ...     <int64[2] flat = {-1, 2}, int64[1] n = {3}, float[rows,2] m, float[rows,3] z>
    ...     { size = Shape <start = 0, end = 2> (x)  shape = Concat <axis = 0> (size, n)
    ...       m = Reshape (x, flat)  z = Gemm (m, w, bias)  y = Reshape (z, shape) }''')
    >>> [node.op_type for node in FuseLinear()(model).model.graph]
    ['MatMul', 'Add']
    """

    name: ClassVar[str] = "fuse-linear"

    def apply(self, model: ir.Model) -> Applied:
        """Look at every ``Gemm``, subgraphs included."""
        sites: list[Site] = []
        declined: list[Declined] = []
        lifting = _Lifting(_followed(model))
        for gemm in [node for node in model.graph.all_nodes() if _is(node, "Gemm")]:
            flat = gemm.inputs[0].producer() if gemm.inputs[0] is not None else None
            if flat is None or not _is(flat, "Reshape"):
                continue
            if reason := lifting.refusal(gemm, flat):
                declined.append(Declined(gemm.name or gemm.outputs[0].name or "Gemm", reason))
            else:
                sites.append(lifting.lift(gemm, flat))
        if sites:
            _followed(model)  # the names of batch and sequence now reach further
        return Applied(model, sites, declined)


def _followed(model: ir.Model) -> dims.Tracker:
    tracker = dims.Tracker()
    for node in model.graph.all_nodes():
        tracker.visit(node)
    return tracker


class _Lifting:
    """One run over a model: what is known about its shapes, and the weights transposed so far."""

    def __init__(self, tracker: dims.Tracker) -> None:
        self._tracker = tracker
        self._transposed: dict[tuple[ir.Graph, ir.Value], ir.Value] = {}

    def refusal(self, gemm: ir.Node, flat: ir.Node) -> str:
        """Why a Gemm has to stay; empty if it can be lifted."""
        changed = [name for name, default in _FIXED.items() if _attribute(gemm, name, default) != default]
        if changed:
            return f"{changed[0]} is {_attribute(gemm, changed[0], 0):g}"
        if not _flattens(flat):
            x, rows = flat.inputs[0], flat.outputs[0]
            return f"'{rows.name}' is not known to be '{x.name if x else ''}' with the leading dimensions flattened"
        if len(gemm.inputs) > 2 and gemm.inputs[2] is not None and not _is_vector(gemm.inputs[2]):
            return f"its bias '{gemm.inputs[2].name}' is no vector"
        output = gemm.outputs[0]
        if output.is_graph_output():
            return "its result is an output of the graph"
        for user, index in output.uses():
            if not _is(user, "Reshape") or index != 0:
                return f"its result is used as a matrix by {user.op_type}"
            if user.graph is not gemm.graph:
                return "its result is used in a subgraph"
            if not _restores(gemm, flat, user) and self._may_copy(user):
                return f"the shape of '{user.outputs[0].name}' may copy a dimension of the flattened result"
        return ""

    def lift(self, gemm: ir.Node, flat: ir.Node) -> Site:
        """Build the linear layer on what ``flat`` flattens, and give it to the users of ``gemm``."""
        x, weight = flat.inputs[0], gemm.inputs[1]
        bias = gemm.inputs[2] if len(gemm.inputs) > 2 else None
        assert weight is not None
        edit = Edit(gemm)
        y = edit.op("MatMul", x, self._matrix(edit, gemm, weight))
        name = edit.made[-1].name or ""
        y = y if bias is None else edit.op("Add", y, bias)
        y.type = gemm.outputs[0].type
        users = sorted((user for user, _ in gemm.outputs[0].uses()), key=lambda user: user.outputs[0].is_graph_output())
        restoring = [user for user in users if _restores(gemm, flat, user)]
        provenance.replaced(edit.made, [flat, gemm, *restoring])
        for user in users:
            if user in restoring:  # two outputs of the graph cannot be one value
                edit.replace(user.outputs[0], edit.op("Identity", y) if y.is_graph_output() else y)
            else:
                user.replace_input_with(0, y)
        drop_dead([gemm])
        return Site(name, ("Reshape", "Gemm", *["Reshape"] * len(restoring)))

    def _matrix(self, edit: Edit, gemm: ir.Node, weight: ir.Value) -> ir.Value:
        """The weight as ``[K, N]``, transposed once for all layers that share it."""
        if not _attribute(gemm, "transB", 0):
            return weight
        key = (edit.graph, weight)
        if key not in self._transposed:
            self._transposed[key] = turned = edit.op("Transpose", weight, perm=[1, 0])
            turned.type = weight.type
        return self._transposed[key]

    def _may_copy(self, reshape: ir.Node) -> bool:
        """Whether a 0 may stand in the shape: it would copy a dimension of something else than before."""
        if reshape.attributes.get_int("allowzero", 0):
            return False
        shape = self._tracker.value(reshape.inputs[1])
        return shape is None or any(dim in (0, None) for dim in shape.flat)


def _flattens(reshape: ir.Node) -> bool:
    """Whether ``[..., K]`` becomes ``[rows, K]``; the number of elements leaves no other choice for the rows."""
    given, made = dims.of(reshape.inputs[0]), dims.of(reshape.outputs[0])
    if given is None or made is None or len(given) < 2 or len(made) != 2:
        return False
    return isinstance(given[-1], int) and given[-1] > 0 and given[-1] == made[1]


def _restores(gemm: ir.Node, flat: ir.Node, reshape: ir.Node) -> bool:
    """Whether the leading dimensions are again those of ``x``, the last one being N.

    One of them may be unknown: as the number of elements is the same, it follows from the others.
    """
    given, made, rows = dims.of(flat.inputs[0]), dims.of(reshape.outputs[0]), dims.of(gemm.outputs[0])
    if given is None or made is None or rows is None or len(made) != len(given):
        return False
    pairs = list(zip((*given[:-1], rows[-1]), made, strict=True))
    different = any(isinstance(one, int) and isinstance(other, int) and one != other for one, other in pairs)
    unproven = sum(one is None or one != other for one, other in pairs)
    return not different and unproven <= 1


def _is_vector(bias: ir.Value) -> bool:
    shape = dims.of(bias)
    return shape is not None and len(shape) <= 2 and shape[:-1] in ((), (1,))


def _is(node: ir.Node, op_type: str) -> bool:
    return node.op_type == op_type and node.domain == ""


def _attribute(node: ir.Node, name: str, default: float) -> float:
    value = node.attributes[name].value if name in node.attributes else default
    assert isinstance(value, int | float)
    return value
