"""Refuse models whose names do not add up, before they become objects in which the mistake is hard to see."""

from __future__ import annotations

import graphlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator

import onnx
import onnx.defs
import onnx.helper
import onnx_ir as ir

from bct_onnx.errors import InputModelError
from bct_onnx.graph.names import names_of
from bct_onnx.graph.opset import OLDEST
from bct_onnx.graph.protobuf import subgraphs

_DTYPES = {dtype.value: dtype for dtype in ir.DataType if dtype != ir.DataType.UNDEFINED}
_FIX = "export the model again; onnx.checker.check_model(path) shows whether the exporter is at fault"


def check_imports(proto: onnx.ModelProto, where: str) -> None:
    """Check the operator sets, and spell the default domain as the empty string; a model that has nothing of ONNX's own
    gets the oldest of its operator sets, as passes may write standard operators into it.

    Raises:
        InputModelError: An operator set is missing, contradictory or newer than the installed onnx knows.
    """
    known = _imports(proto.opset_import, where)
    for node in _nodes(proto.graph.node):
        node.domain = _domain(node.domain)
        if node.domain not in known:
            domain = node.domain or "ai.onnx"
            why = f"node {node.name!r} ({node.op_type}) needs domain {domain!r}, which is not among the model's imports"
            raise InputModelError("the model does not state its operator set version", where=where, why=why, fix=_FIX)
    if "" not in known:
        proto.opset_import.add(domain="", version=OLDEST)
    for function in proto.functions:
        _imports(function.opset_import, f"{where}, function {function.name!r}")


def check_graph(graph: onnx.GraphProto, where: str, outer: tuple[set[str], ...] = ()) -> None:
    """Check that every name has one origin, every use an origin, and every output too; subgraphs included.

    Args:
        graph: The graph to check.
        where: What to call its file in messages.
        outer: The names visible in each of the enclosing graphs.

    Raises:
        InputModelError: The graph breaks one of these rules, has sparse initializers, or (top level) no nodes or
            outputs.
    """
    where = f"{where}, graph {graph.name!r}"
    if graph.sparse_initializer:
        why = f"{len(graph.sparse_initializer)} initializers are sparse tensors"
        raise InputModelError(
            "sparse weights are not supported", where=where, why=why, fix="export the model with dense weights"
        )
    if not outer and not (graph.node and graph.output):
        missing = "outputs" if graph.node else "nodes"
        raise InputModelError(f"the graph has no {missing}", where=where, why="there is nothing to rewrite", fix=_FIX)
    inputs, initializers = names_of(graph.input), names_of(graph.initializer)
    produced = _produced(graph.node)
    _check_unique(inputs, "is listed twice among the graph's inputs", where)
    _check_unique(initializers, "is the name of two initializers", where)
    _check_unique([*set(inputs) | set(initializers), *produced], "is produced twice", where)
    own = {*inputs, *initializers, *produced}
    outputs = names_of(graph.output)
    if outer:  # of what a branch lists twice ONNX Runtime gives one; of the model's outputs it gives each
        _check_unique(outputs, "is listed twice among the graph's outputs", where)
    else:
        _check_declared_alike(graph.output, where)
    for name in outputs:
        if name not in own:
            raise InputModelError(f"nothing produces the output {name!r}", where=where, fix=_FIX)
    _check_uses(graph.node, (*outer, own), where)


def _produced(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    """Names of all that nodes give, one as often as it is given."""
    names: list[str] = []
    for node in nodes:
        names += filter(None, node.output)
    return names


def check_functions(proto: onnx.ModelProto, where: str) -> None:
    """Check the bodies of the model-local functions as `check_graph` does a graph.

    Raises:
        InputModelError: A name has no origin, or two; or functions call each other in a circle.
    """
    for function in proto.functions:
        place = f"{where}, function {function.name!r}"
        names = [*function.input, *_produced(function.node)]
        _check_unique(names, "is produced twice", place)
        for name in function.output:
            if name not in names:
                raise InputModelError(f"nothing produces the output {name!r}", where=place, fix=_FIX)
        _check_uses(function.node, (set(names),), place)
    _check_calls(proto, where)


def _check_calls(proto: onnx.ModelProto, where: str) -> None:
    """Refuse functions that call themselves, by way of others too: nothing can put their nodes in place of a call."""
    bodies = {(function.domain, function.name, function.overload): function.node for function in proto.functions}
    calls: dict[tuple[str, str, str], set[tuple[str, str, str]]] = {}
    for name, body in bodies.items():
        operators = {(node.domain, node.op_type, node.overload) for node in _nodes(body)}
        calls[name] = operators & bodies.keys()
    try:
        graphlib.TopologicalSorter(calls).prepare()
    except graphlib.CycleError as error:
        names = " -> ".join(repr(name) for _, name, _ in error.args[1])
        raise InputModelError("functions call each other in a circle", where=where, why=names, fix=_FIX) from None


def check_tensor(tensor: onnx.TensorProto, where: str) -> int:
    """Check that a tensor holds what its shape and type ask for, and return that in bytes (0 for strings).

    The figures are Python integers: an absurd shape allocates nothing. External data are not looked at.

    Raises:
        InputModelError: The type is unknown, a dimension is negative, or there is more or less data.
    """
    dtype = _DTYPES.get(tensor.data_type)
    if dtype is None:
        why = f"onnx-ir {ir.__version__} does not know element type {tensor.data_type}"
        fix = "pip install --upgrade onnx onnx-ir"
        raise InputModelError("a tensor has an unknown type", where=where, why=why, fix=fix)
    if any(dim < 0 for dim in tensor.dims):
        raise InputModelError(
            "a tensor has a negative dimension", where=where, why=f"its shape is {list(tensor.dims)}", fix=_FIX
        )
    count: int = math.prod(tensor.dims)
    bits: int = 0 if dtype == ir.DataType.STRING else dtype.bitwidth
    nbytes = -(-count * bits // 8)
    if tensor.data_location == onnx.TensorProto.EXTERNAL and bits:
        return nbytes
    if tensor.HasField("raw_data"):
        needed, stored, unit = nbytes, len(tensor.raw_data), "bytes"
    else:
        parts = 2 if dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128) else 1
        needed = nbytes if bits in (2, 4) else count * parts  # sub-byte values come packed, one byte per entry
        stored, unit = len(getattr(tensor, onnx.helper.tensor_dtype_to_field(dtype.value))), "values"
    if needed != stored:
        why = f"shape {list(tensor.dims)} of {dtype.name} needs {needed:,} {unit}, {stored:,} are stored"
        raise InputModelError("a tensor's shape and data disagree", where=where, why=why, fix=_FIX)
    return nbytes


def _check_uses(nodes: Iterable[onnx.NodeProto], scopes: tuple[set[str], ...], where: str) -> None:
    for node in nodes:
        for name in node.input:
            if name and not any(name in scope for scope in scopes):
                why = f"node {node.name!r} ({node.op_type}) uses it"
                raise InputModelError(f"nothing produces the value {name!r}", where=where, why=why, fix=_FIX)
        for attribute in node.attribute:
            if not attribute.ref_attr_name and not _has_value(attribute):
                why = f"attribute {attribute.name!r} of node {node.name!r} ({node.op_type})"
                raise InputModelError("an attribute has no value", where=where, why=why, fix=_FIX)
        for graph in subgraphs(node.attribute):
            check_graph(graph, where, scopes)


def _has_value(attribute: onnx.AttributeProto) -> bool:
    if attribute.type == onnx.AttributeProto.TENSOR:
        return bool(attribute.HasField("t"))
    if attribute.type == onnx.AttributeProto.GRAPH:
        return bool(attribute.HasField("g"))
    return attribute.type != onnx.AttributeProto.UNDEFINED


def _check_unique(names: list[str], problem: str, where: str) -> None:
    if "" in names:
        raise InputModelError("a value has no name", where=where, fix=_FIX)
    if len(set(names)) < len(names):
        name = next(name for name, count in Counter(names).items() if count > 1)
        raise InputModelError(f"the value {name!r} {problem}", where=where, fix=_FIX)


def _check_declared_alike(outputs: Iterable[onnx.ValueInfoProto], where: str) -> None:
    types: dict[str, onnx.TypeProto] = {}
    for info in outputs:
        if types.setdefault(info.name, info.type) != info.type:
            problem = f"the value {info.name!r} is listed twice among the graph's outputs, with different types"
            raise InputModelError(problem, where=where, fix=_FIX)


def _imports(imports: Iterable[onnx.OperatorSetIdProto], where: str) -> dict[str, int]:
    known: dict[str, int] = {}
    for entry in imports:
        entry.domain = _domain(entry.domain)
        if known.setdefault(entry.domain, entry.version) != entry.version:
            versions = f"{known[entry.domain]} and {entry.version}"
            why = f"domain {entry.domain or 'ai.onnx'!r} is imported as version {versions}"
            raise InputModelError(
                "the model's operator set versions contradict each other", where=where, why=why, fix=_FIX
            )
    newest = onnx.defs.onnx_opset_version()
    if known.get("", 1) > newest:
        why = f"it uses opset {known['']}; the installed onnx {onnx.__version__} knows up to {newest}"
        raise InputModelError(
            "the model's operator set is too new", where=where, why=why, fix="pip install --upgrade onnx"
        )
    if known.get("", 1) < 1:
        raise InputModelError("the model does not state its operator set version", where=where, why="it is 0", fix=_FIX)
    return known


def _domain(domain: str) -> str:
    if domain == "ai.onnx":
        return ""
    return domain


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in subgraphs(node.attribute):
            yield from _nodes(graph.node)
