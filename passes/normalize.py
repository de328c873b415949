"""Any export becomes one kind of graph, so that every later pass has one starting point."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from bct_onnx.base import Applied, Pass, Site
from bct_onnx.errors import InputModelError, UsageError
from bct_onnx.graph import broadcast_norms, duplicates, functions, lookups, opset, rotary, shapes, walk, widen
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.functions import inlining
from bct_onnx.graph.identity import bypass
from bct_onnx.graph.names import names_of
from bct_onnx.graph.unused import remove_unused_nodes

_BIG = 1 << 16
"""Matrices of fewer bytes are not looked at as transposed copies of a table."""

_NAMED = 1 << 10
"""Equal constants of fewer bytes are counted, not named one by one."""

_METADATA_IR_VERSION = 10
"""The first IR version in which nodes carry ``metadata_props``, where the passes leave their stamps."""


@dataclasses.dataclass(frozen=True)
class Normalize(Pass):
    """Bring any export to one starting point: one opset, no functions, constants as initializers, fresh shapes.

    Why:
        The same model looks different from every exporter and every opset. Recognisers of later passes would have to
        know all these spellings, and fail silently where they do not. Blocked quantization needs opset 21, ``Gelu``
        20, ``Attention``, ``RMSNormalization`` and ``RotaryEmbedding`` 23, which is the default. But a runtime that
        knows an opset does not have a kernel for all of its operators: no ONNX Runtime has any for ``RandomNormal`` and
        ``RoiAlign`` from opset 22 on.

    Before/after:
        Model-local functions are inlined. ``Constant`` nodes become initializers, those of subgraphs in the root graph;
        ``Identity`` goes; inputs with a default stay such, and are no constants to any pass. Operators are brought
        to ``opset``: ``Unsqueeze<axes=[1]>(x)`` becomes ``Unsqueeze(x, [1])``. bfloat16 becomes float32, inputs and
        outputs too. ``RotaryEmbedding`` whose cosines are those of one text gets them for each text of a batch.
        ``GatherND`` that takes rows of a constant is ``Gather``. Intermediate shapes are forgotten and inferred anew.
        Weights that are stored twice are stored once; a transposed copy of a gathered table becomes
        ``Transpose(table)``. Unused nodes and weights go; missing and duplicate node names are filled in.

    Declines:
        Nothing; a model that cannot be brought up is an error that names the operator.

    Options:
        opset: The opset to reach. It is a lower one, from 21 on, where the oldest ONNX Runtime that results are made
            for (1.23) has no kernel for an operator of the model, and a higher one where the model has what came later.

    Promise:
        Exact. Names of inputs, outputs and their dimensions, and the metadata of the model are kept.

    >>> model = ir.from_onnx_text('''<ir_version: 6, opset_import: ["": 11]> g (float[n] x) => (float[1, n] y)
    ...     { i = Identity (x)  y = Unsqueeze <axes = [0]> (i) }''')
    >>> [node.op_type for node in Normalize()(model).model.graph], model.opset_imports
    (['Unsqueeze'], {'': 23})
    """

    name: ClassVar[str] = "normalize"

    opset: int = 23

    def __post_init__(self) -> None:
        newest = onnx.defs.onnx_opset_version()
        if not 21 <= self.opset <= newest:
            raise UsageError(
                f"opset {self.opset} is out of range", fix=f"21 (the first with blocked quantization) to {newest}"
            )

    def apply(self, model: ir.Model) -> Applied:
        """Run all steps in the order in which they help each other."""
        _sort(model)
        sites = [
            *_inlined(model, self.opset),
            *_brought(model, self.opset),
            *_lifted(model),
            *_widened(model),
            *_without_identity(model),
            *_stored_once(model),
            *_tied(model),
            *_without_dead(model),
            *_named(model),
        ]
        _sort(model)
        shapes.infer(model)
        sites += _rotated(model)
        sites += _spread(model)
        sites += _looked_up(model)
        return Applied(model, sites)


def _inlined(model: ir.Model, preferred: int) -> Iterator[Site]:
    """Inline every function but those this tool writes itself, at one common opset."""
    inline = [function for function in model.functions.values() if function.domain != functions.DOMAIN]
    if not inline:
        return
    scopes: list[ir.Graph | ir.Function] = [model.graph, *inline]
    if len({scope.opset_imports.get("", preferred) for scope in scopes}) > 1:
        common_opset, _ = opset.best(scopes, preferred)
        for scope in scopes:
            opset.bring(scope, common_opset)
    inlining.inline(model, lambda function: function.domain != functions.DOMAIN)
    yield Site(f"{len(inline)} functions", tuple(names_of(inline)), "inlined")


def _brought(model: ir.Model, preferred: int) -> Iterator[Site]:
    """Bring the model to its opset, and set the IR version to what that needs."""
    before = model.opset_imports.setdefault("", preferred)
    if before < opset.RANKS_NEEDED or before > preferred:
        shapes.infer(model)
    after, reason = opset.best([model.graph], preferred)
    if after != before:
        changed = opset.bring(model.graph, after)
        note = f"{before} -> {after}, {changed} nodes respelled" + (f"; {reason}" if reason else "")
        yield Site("opset", (f"opset {before}",), note)
    for function in model.functions.values():
        function.opset_imports[""] = after
    imports = opset.imports_of(model)
    ir_version = max(_METADATA_IR_VERSION, onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True))
    if model.ir_version != ir_version:
        yield Site("IR version", (), f"{model.ir_version} -> {ir_version}")
        model.ir_version = ir_version


def _lifted(model: ir.Model) -> Iterator[Site]:
    """Constants become initializers of the root graph, and initializers are no inputs."""
    constants = walk.nodes_of(model.graph, "Constant")
    sparse = next((node for node in constants if "sparse_value" in node.attributes), None)
    if sparse is not None:
        raise InputModelError(
            "sparse constants are not supported", where=f"node '{sparse.name}'", fix="export dense weights"
        )
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.LiftSubgraphInitializersToMainGraphPass()(model)
    lifted = sum(node.graph is None for node in constants)
    if lifted:
        yield Site(f"{lifted} constants", ("Constant",), "now initializers")
    listed = names_of(filter(ir.Value.is_initializer, model.graph.inputs))
    common.RemoveInitializersFromInputsPass()(model)
    if listed:
        yield Site(f"{len(listed)} initializers", tuple(listed), "no longer listed among the inputs")


def _widened(model: ir.Model) -> Iterator[Site]:
    """What is bfloat16 becomes float32, which runtimes for CPUs have operators of."""
    if changed := widen.widen(model):
        yield Site(f"{changed} values", ("bfloat16",), "now float32")


def _rotated(model: ir.Model) -> Iterator[Site]:
    """Rotary embeddings take any number of texts."""
    if changed := rotary.for_every_text(model):
        shapes.infer(model)
        yield Site(f"{changed} RotaryEmbedding", ("RotaryEmbedding",), "cosines and sines for every text, not for one")


def _spread(model: ir.Model) -> Iterator[Site]:
    """Scales and biases of normalizations that are one number for all channels get one for each."""
    if changed := broadcast_norms.spread(model):
        yield Site(f"{changed} parameters", broadcast_norms.NORMALIZATIONS, "not a number per channel, now one or none")


def _looked_up(model: ir.Model) -> Iterator[Site]:
    """Rows of constants are looked up by `Gather` alone."""
    if changed := lookups.by_gather(model):
        shapes.infer(model)
        yield Site(f"{changed} GatherND", ("GatherND",), "one index for each row: Gather")


def _without_identity(model: ir.Model) -> Iterator[Site]:
    if removed := sum(map(bypass, walk.nodes_of(model.graph, "Identity"))):
        yield Site(f"{removed} Identity", ("Identity",), "removed")


def _stored_once(model: ir.Model) -> Iterator[Site]:
    """Byte-equal initializers become one."""
    small = 0
    for name, original in duplicates.merge(model.graph):
        if original.const_value is not None and original.const_value.nbytes >= _NAMED:
            yield Site(original.name or "", (original.name or "", name), "equal weights, stored once")
        else:
            small += 1
    if small:
        yield Site(f"{small} small constants", (), "equal to others, stored once")


def _is_gathered(value: ir.Value) -> bool:
    return any(user.op_type == "Gather" and index == 0 for user, index in value.uses())


def _tied(model: ir.Model) -> Iterator[Site]:
    """A weight that is the transpose of a gathered table becomes ``Transpose(table)``."""
    matrices = list(filter(_is_big_matrix, model.graph.initializers.values()))
    for table in list(filter(_is_gathered, matrices)):  # as they were before the first edit
        for weight in matrices:
            if weight is not table and weight.uses() and duplicates.is_transpose(table, weight):
                name = weight.name or ""
                del model.graph.initializers[name]
                edit = Edit(model.graph[0], name)
                edit.replace(weight, edit.op("Transpose", table, perm=[1, 0]))
                yield Site(table.name or "", (table.name or "", name), "transposed copy of a table, stored once")


def _is_big_matrix(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or value.is_graph_output():
        return False
    return len(tensor.shape) == 2 and tensor.nbytes >= _BIG and tensor.dtype.is_floating_point()


def _without_dead(model: ir.Model) -> Iterator[Site]:
    nodes, initializers = _count(model), len(model.graph.initializers)
    remove_unused_nodes(model)
    common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]  # its constructor has no annotations
    common.RemoveUnusedOpsetsPass()(model)
    nodes, initializers = nodes - _count(model), initializers - len(model.graph.initializers)
    if nodes or initializers:
        yield Site(f"{nodes} nodes and {initializers} initializers", (), "unused, removed")


class _Names:
    """Names for nodes without one: the operator, which `NameFixPass` numbers."""

    def generate_node_name(self, node: ir.Node) -> str:
        return node.name or node.op_type

    def generate_value_name(self, value: ir.Value) -> str:
        return value.name or "value"


def _named(model: ir.Model) -> Iterator[Site]:
    before = {id(node): node.name for node in model.graph.all_nodes()}
    common.NameFixPass(_Names())(model)
    renamed = sum(before[id(node)] != node.name for node in model.graph.all_nodes())
    if renamed:
        yield Site(f"{renamed} nodes", (), "had no name or one that is taken")


def _count(model: ir.Model) -> int:
    return sum(1 for _ in model.graph.all_nodes())


def _sort(model: ir.Model) -> None:
    try:
        model.graph.sort()
    except ValueError as error:
        raise InputModelError("the graph contains a cycle", why=str(error), fix="export the model again") from error
