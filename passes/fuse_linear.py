"""A linear layer that works on flattened tokens becomes a ``MatMul`` and an ``Add`` on the tokens as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, NodeRewriter, Outcome, Site
from bct_onnx.graph import dims, provenance
from bct_onnx.graph.edit import Edit, drop_dead
from bct_onnx.graph.known import is_sized
from bct_onnx.graph.neighbours import attributes_of, made_by, of_types, operand, readers_of
from bct_onnx.graph.recognise import flattened

_FIXED = {"alpha": 1.0, "beta": 1.0, "transA": 0}


@dataclasses.dataclass(frozen=True)
class FuseLinear(NodePass):
    """Lift ``Gemm`` between two ``Reshape`` to ``MatMul`` and ``Add`` on the value that was not flattened.

    Why:
        PyTorch's ``addmm``, the linear layer of GPT-2 and its kin, is exported as ``Gemm``, which knows matrices only,
        so the tokens are flattened before it and unflattened after it. Between a normalization and its weight then
        stands a ``Reshape``, behind which later passes do not see what they could smooth, and the sizes of batch and
        sequence are computed again for every layer.

    Before/after:
        ``Reshape(Gemm(Reshape(x, [-1, K]), W, b), [batch, sequence, N])`` becomes ``Add(MatMul(x, W), b)``. The bias
        may be missing; a weight with ``transB`` gets a ``Transpose`` in front, and an ``x`` whose heads the first
        ``Reshape`` joins as well gets one that only does that. A second ``Reshape`` that does not restore the leading
        dimensions of ``x``, but splits into heads, for example, stays and reads the ``Add``. Not all sizes need be
        known: if all dimensions but one are the same, the number of elements decides about the last, and where K = N
        the second ``Reshape`` can move to the front.

    Declines:
        ``alpha``, ``beta`` or ``transA`` other than the defaults. A bias that is no vector. A result that is used as a
        matrix, or reshaped by a shape that may copy a dimension of the flattened value (0). A first ``Reshape`` that is
        not known to leave the last dimensions together. A ``Gemm`` that no ``Reshape`` feeds is no site at all.

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

    operators: ClassVar[tuple[str, ...]] = ("Gemm",)

    def rewriter(self, model: ir.Model, nodes: Sequence[ir.Node]) -> NodeRewriter:
        """What several layers share is made once: a weight transposed, heads joined."""
        return _Lifting(model)


class _Lifting(NodeRewriter):
    """One run over a model: what is known about its shapes, and the weights and inputs brought into form so far."""

    def __init__(self, model: ir.Model) -> None:
        self._tracker = dims.Tracker()
        self._made: dict[tuple[ir.Graph, ir.Value], ir.Value] = {}
        every = list(model.graph.all_nodes())
        for node in every:
            self._tracker.visit(node)
        self._rest = iter(every)

    def __call__(self, gemm: ir.Node) -> Outcome:
        for node in self._rest:  # once more: behind a lifted layer the names of batch and sequence are known
            if node.graph is not None:
                self._tracker.visit(node)
            if node is gemm:
                break
        flat = made_by(gemm.inputs[0], "Reshape")
        if flat is None:
            return None
        if reason := self._refusal(gemm, flat):
            return Declined(gemm.name or gemm.outputs[0].name or "Gemm", reason)
        return self._lift(gemm, flat)

    def _refusal(self, gemm: ir.Node, flat: ir.Node) -> str:
        """Why a Gemm has to stay; empty if it can be lifted."""
        for name, default in _FIXED.items():
            attribute = gemm.attributes.get(name)
            if attribute is not None and attribute.value != default:
                return f"{name} is {attribute.value:g}"
        leading = flattened.leading(flat)
        if leading is None and self._movable(gemm, flat) is None:
            x, rows = flat.inputs[0], flat.outputs[0]
            return f"'{rows.name}' is not known to be '{x.name if x else ''}' with the leading dimensions flattened"
        bias = operand(gemm, 2)
        if bias is not None and not flattened.is_vector(bias):
            return f"its bias '{bias.name}' is no vector"
        output = gemm.outputs[0]
        if output.is_graph_output():
            return "its result is an output of the graph"
        for user, index in output.uses():
            if not _is(user, "Reshape") or index != 0:
                return f"its result is used as a matrix by {user.op_type}"
            if user.graph is not gemm.graph:
                return "its result is used in a subgraph"
            if leading is not None and not flattened.restores(gemm, leading, user) and self._may_copy(user):
                return f"the shape of '{user.outputs[0].name}' may copy a dimension of the flattened result"
        return ""

    def _lift(self, gemm: ir.Node, flat: ir.Node) -> Site:
        """Build the linear layer on what ``flat`` flattens, and give it to the users of ``gemm``."""
        leading, restoring = flattened.leading(flat), _users(gemm)
        if leading is not None:
            restoring = [user for user in restoring if flattened.restores(gemm, leading, user)]
            edit = Edit(gemm)
            tokens = self._tokens(edit, flat, leading)
        else:
            (last,) = restoring
            edit = Edit(last, gemm.name or "")
            attributes = attributes_of(last)
            tokens = edit.op("Reshape", flat.inputs[0], last.inputs[1], name="tokens", **attributes)
            tokens.type = flat.outputs[0].type
        y = self._layer(edit, gemm, tokens)
        provenance.replaced(edit.made, [flat, gemm, *restoring])
        for user in _users(gemm):
            if user not in restoring:
                user.replace_input_with(0, y)
            elif y.is_graph_output():  # two outputs of the graph cannot be one value
                edit.replace(user.outputs[0], edit.op("Identity", y))
            else:
                edit.replace(user.outputs[0], y)
        drop_dead([gemm])
        for node in edit.made:
            self._tracker.visit(node)
        product = of_types(edit.made, "MatMul")[0]
        return Site(product.name or "", ("Reshape", "Gemm", *["Reshape"] * len(restoring)))

    def _layer(self, edit: Edit, gemm: ir.Node, tokens: ir.Value) -> ir.Value:
        y = edit.op("MatMul", tokens, self._matrix(edit, gemm))
        y.type = gemm.outputs[0].type
        if (bias := operand(gemm, 2)) is not None:
            y = edit.op("Add", y, bias)
            y.type = gemm.outputs[0].type
        return y

    def _tokens(self, edit: Edit, flat: ir.Node, leading: dims.Dims) -> ir.Value:
        """What the first ``Reshape`` flattens as ``[*leading, K]``; its heads are joined once for all layers."""
        x, rows = flat.inputs[0], flat.outputs[0]
        assert x is not None and x.shape is not None and rows.shape is not None
        if len(leading) == x.shape.rank() - 1:
            return x
        key = (edit.graph, rows)
        if key not in self._made:
            width = rows.shape[1]
            assert isinstance(width, int)
            shape = edit.shape("joined", [*[0] * len(leading), width])
            self._made[key] = joined = edit.op("Reshape", x, shape, name="joined")
            joined.type, joined.shape = x.type, ir.Shape([*x.shape[: len(leading)], width])
        return self._made[key]

    def _matrix(self, edit: Edit, gemm: ir.Node) -> ir.Value:
        """The weight as ``[K, N]``; it is transposed once for all layers that share it."""
        weight = gemm.inputs[1]
        assert weight is not None
        if not gemm.attributes.get_int("transB", 0):
            return weight
        key = (edit.graph, weight)
        if key not in self._made:
            self._made[key] = turned = edit.op("Transpose", weight, perm=[1, 0])
            turned.type = weight.type
        return self._made[key]

    def _movable(self, gemm: ir.Node, flat: ir.Node) -> ir.Node | None:
        """The ``Reshape`` behind a layer with K = N if it can as well stand in front, whatever is flattened."""
        users = _users(gemm)
        shapes = [dims.of(node.outputs[0]) for node in (flat, gemm, *users)]
        widths = {shape[-1] if shape else None for shape in shapes}
        square = len(widths) == 1 and is_sized(widths)
        if len(users) != 1 or not square or gemm.attributes.get_int("transB", 0) != 0:
            return None
        if _is(users[0], "Reshape") and not self._may_copy(users[0]):
            return users[0]
        return None

    def _may_copy(self, reshape: ir.Node) -> bool:
        """Whether a 0 may stand in the shape: it would copy a dimension of something else than before."""
        if reshape.attributes.get_int("allowzero", 0):
            return False
        shape = self._tracker.value(reshape.inputs[1])
        return shape is None or any(dim in (0, None) for dim in shape.flat)


def _users(gemm: ir.Node) -> list[ir.Node]:
    """Who reads the result, outputs of the graph last: the new value takes the name of the last one it replaces."""
    return sorted(readers_of(gemm.outputs[0]), key=lambda user: user.outputs[0].is_graph_output())


def _is(node: ir.Node, op_type: str) -> bool:
    return node.op_type == op_type and node.domain == ""
