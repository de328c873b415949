"""What a rewrite has to leave as it was: names, types and sizes of inputs and outputs, and the model's metadata."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import onnx
import onnx.helper

from bct_onnx import registry
from bct_onnx.base import Pass
from bct_onnx.graph import provenance
from bct_onnx.graph.protobuf import subgraphs

KEPT = ("producer_name", "producer_version", "domain", "model_version", "doc_string")
OURS = "bct_onnx."


def differences(before: onnx.ModelProto, after: onnx.ModelProto, passes: Iterable[Pass] = ()) -> list[str]:
    """What of the interface of ``before`` is different in ``after``, each as ``what: how``.

    Dimensions to which one of ``passes`` gives a size have to have that one.
    """
    sizes = _Sizes(passes)
    found = [
        *_values("inputs", _fed(before), _fed(after), sizes),
        *_values(
            "outputs",
            before.graph.output,
            after.graph.output,
            sizes,
            passed={*_constants(before.graph), *(info.name for info in before.graph.input)},
        ),
        *(f"{field}: {getattr(after, field)!r}" for field in KEPT if getattr(before, field) != getattr(after, field)),
    ]
    if (before.graph.name, before.graph.doc_string) != (after.graph.name, after.graph.doc_string):
        found.append(f"graph name or text: {after.graph.name!r}")
    props = {entry.key: entry.value for entry in after.metadata_props}
    for entry in before.metadata_props:
        if not entry.key.startswith(OURS) and entry.key not in props:
            found.append(f"metadata: {entry.key!r} is gone")
    return found


class _Sizes:
    """What passes make of the dimensions of inputs and outputs."""

    def __init__(self, passes: Iterable[Pass]) -> None:
        self._passes = tuple(passes)

    def given(self, dim: str) -> str:
        """The size that the first pass gives to a dimension with a name; else what it was."""
        sizes = (one.fixed_size(dim) for one in self._passes if dim != "?" and not dim.isdigit())
        return next((str(size) for size in sizes if size is not None), dim)


def _constants(graph: onnx.GraphProto) -> set[str]:
    return {tensor.name for tensor in graph.initializer}


def _fed(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Inputs that may be given; before IR version 4 an initializer that was listed too was a constant."""
    constants = _constants(model.graph) if model.ir_version < 4 else set[str]()
    return [info for info in model.graph.input if info.name not in constants]


def _values(
    what: str,
    before: Sequence[onnx.ValueInfoProto],
    after: Sequence[onnx.ValueInfoProto],
    sizes: _Sizes,
    passed: Collection[str] = (),
) -> list[str]:
    """Names that differ, or types; not of those ``passed`` through the model, which are declared elsewhere too."""
    one, other = [info.name for info in before], [info.name for info in after]
    if one != other:
        return [f"names of {what}: {one} became {other}"]
    pairs = zip(before, after, strict=True)
    return [
        f"type of {what}: {old.name!r}: {_type(old)} became {_type(new)}"
        for old, new in pairs
        if not (old.name in passed or _fits(old, new, sizes))
    ]


def _fits(before: onnx.ValueInfoProto, after: onnx.ValueInfoProto, sizes: _Sizes) -> bool:
    """Whether ``after`` says all that ``before`` says; it may say more. bfloat16 becomes float32: see `normalize`."""
    if not before.HasField("type") or before.type.WhichOneof("value") is None:
        return True
    old, new = before.type.tensor_type, after.type.tensor_type
    if before.type.WhichOneof("value") != "tensor_type":
        return bool(before.type == after.type)
    if old.elem_type == 0:  # undeclared
        return True
    widened = (old.elem_type, new.elem_type) == (onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT)
    if old.elem_type != new.elem_type and not widened:
        return False
    if not old.HasField("shape"):
        return True
    if len(old.shape.dim) != len(new.shape.dim):
        return False
    pairs = zip(old.shape.dim, new.shape.dim, strict=True)
    return all(sizes.given(_dim(a)) in ("?", _dim(b)) for a, b in pairs)


def _type(info: onnx.ValueInfoProto) -> str:
    tensor = info.type.tensor_type
    return f"{tensor.elem_type}[{', '.join(map(_dim, tensor.shape.dim))}]"


def _dim(dim: onnx.TensorShapeProto.Dimension) -> str:
    return str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?"


def untraced(before: onnx.ModelProto, after: onnx.ModelProto) -> list[str]:
    """Nodes of ``after`` that are neither in ``before`` nor tell which pass made them; names that two nodes have.

    Nodes that replace others also name those, by what they were called in ``before`` or by their operators. Files in
    which such stamps would take too much have none (see `bct_onnx.graph.notes`).
    """
    stamped = any(entry.key == provenance.PASS for node in _nodes(after.graph) for entry in node.metadata_props)
    origins = {(node.name, node.op_type) for node in _nodes(before.graph)}
    known = {name for origin in origins for name in origin}
    found, taken = [], set[str]()
    for node in _nodes(after.graph):
        if not node.name or node.name in taken:
            found.append(f"name of a node: {node.name!r} ({node.op_type})")
        taken.add(node.name)
        props = {entry.key: entry.value for entry in node.metadata_props}
        new = (node.name, node.op_type) not in origins
        if stamped and new and props.get(provenance.PASS) not in registry.PASSES:
            found.append(f"origin: {node.name!r} ({node.op_type}) has {props}")
        replaced = props.get(provenance.REPLACED, "")
        if replaced and not any(name in replaced for name in known):
            found.append(f"replaced: {node.name!r} ({node.op_type}) names {replaced!r}")
    return found


def unfit_versions(before: onnx.ModelProto, after: onnx.ModelProto) -> list[str]:
    """What is wrong with operator sets and IR version: each used domain once and no other, none lowered."""
    old = {entry.domain: entry.version for entry in before.opset_import}
    new = {entry.domain: entry.version for entry in after.opset_import}
    used = {node.domain for node in _nodes(after.graph)} | {function.domain for function in after.functions}
    needed = onnx.helper.find_min_ir_version_for(list(after.opset_import), ignore_unknown=True)
    return [
        *(f"domain {domain!r} is not imported" for domain in used - set(new)),
        *(f"domain {domain!r} is imported and not used" for domain in set(new) - used - {""}),
        *(["a domain is imported twice"] if len(new) < len(after.opset_import) else []),
        *(["the opset was lowered"] if new[""] < old[""] else []),
        *([f"IR version {after.ir_version}"] if not needed <= after.ir_version <= onnx.IR_VERSION else []),
    ]


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for inner in subgraphs(node.attribute):
            yield from _nodes(inner)
