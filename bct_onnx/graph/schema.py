"""Refuse standard operators that are not used as ONNX defines them, so that passes can rely on inputs and attributes.

ONNX Runtime refuses the same models; but it is not asked about big ones, and its message comes after the work.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx.defs
import onnx_ir as ir

from bct_onnx.errors import InputModelError
from bct_onnx.graph.names import names_of
from bct_onnx.graph.protobuf import subgraphs

_FIX = "export the model again; onnx.checker.check_model(path) shows whether the exporter is at fault"
WRITTEN = 23
"""The newest opset that passes make operators of: ``Attention`` came with it. Models of it need no look."""

_Parameter = onnx.defs.OpSchema.FormalParameterOption


def check_nodes(proto: onnx.ModelProto, where: str) -> None:
    """Check numbers of inputs and outputs, and attributes, of standard operators; subgraphs and functions included.

    Operators that the installed onnx does not know at the model's operator set are left to the runtime.

    Raises:
        InputModelError: A node is not what its operator's schema asks for.
    """
    _check(proto.graph.node, _version(proto.opset_import), where)
    for node in proto.graph.node:
        _check_references(node, where)
    for function in proto.functions:
        _check(function.node, _version(function.opset_import), f"{where}, function {function.name!r}")


def check_made(model: ir.Model, nodes: Iterable[ir.Node], maker: str) -> None:
    """Check that the model's operator set is new enough for nodes that a pass has made.

    Raises:
        InputModelError: It has no such operator, or an older one that takes other inputs, attributes or types.
    """
    version = model.opset_imports.get("", WRITTEN)
    if version >= WRITTEN:
        return
    new = set(map(id, nodes))
    for node in model.graph.all_nodes():
        problem = _outdated(model, node, version) if id(node) in new else ""
        if problem:
            raise InputModelError(
                f"opset {version} is too old for {maker}",
                where=f"node {node.name!r} ({node.op_type})",
                why=problem,
                fix="put normalize before it, which raises the opset",
            )


def _outdated(model: ir.Model, node: ir.Node, version: int) -> str:
    """Why an operator is none of this version, or what of a function that runtimes put into the graph as it is."""
    function = model.functions.get(node.op_identifier())
    if function is not None:
        problems = ((inner.op_type, _outdated(model, inner, version)) for inner in function)
        return next((f"{op_type} in it: {problem}" for op_type, problem in problems if problem), "")
    if node.domain:
        return ""
    if not onnx.defs.has(node.op_type, version, ""):
        return "there is no such operator"
    schema = onnx.defs.get_schema(node.op_type, version, "")
    return _problem(ir.serde.serialize_node(node), schema) or type_problem(node, schema)


def type_problem(node: ir.Node, schema: onnx.defs.OpSchema) -> str:
    """A tensor of a type that an operator does not take there; empty if there is none."""
    pairs = (*zip(node.inputs, schema.inputs, strict=False), *zip(node.outputs, schema.outputs, strict=False))
    allowed = {constraint.type_param_str: set(constraint.allowed_type_strs) for constraint in schema.type_constraints}
    for value, parameter in pairs:
        kind = value.type if value is not None else None
        types = allowed.get(parameter.type_str, {parameter.type_str})  # ``parameter.types`` fails in onnx 1.20
        if isinstance(kind, ir.TensorType) and f"tensor({kind.dtype.name.lower()})" not in types:
            return f"{parameter.name!r} cannot be {kind.dtype.name}"
    return ""


def _version(imports: Iterable[onnx.OperatorSetIdProto]) -> int:
    return next((entry.version for entry in imports if entry.domain in ("", "ai.onnx")), 0)


def _check(nodes: Iterable[onnx.NodeProto], version: int, where: str) -> None:
    for node in nodes:
        if node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type, version, ""):
            problem = _problem(node, onnx.defs.get_schema(node.op_type, version, ""))
            if problem:
                raise InputModelError(
                    f"a node is no {node.op_type} of opset {version}",
                    where=f"{where}, node {node.name!r} that gives {', '.join(map(repr, node.output)) or 'nothing'}",
                    why=problem,
                    fix=_FIX,
                )
        for graph in subgraphs(node.attribute):
            _check(graph.node, version, where)


def _check_references(node: onnx.NodeProto, where: str) -> None:
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            raise InputModelError(
                "an attribute stands for one of a function, but is in none",
                where=f"{where}, node {node.name!r} ({node.op_type}), attribute {attribute.name!r}",
                fix=_FIX,
            )
    for graph in subgraphs(node.attribute):
        for inner in graph.node:
            _check_references(inner, where)


def _problem(node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> str:
    """What is wrong with a node, or nothing."""
    if not schema.min_input <= len(node.input) <= schema.max_input:
        return f"it has {len(node.input)} inputs, not {schema.min_input} to {schema.max_input}"
    if not schema.min_output <= len(node.output) <= schema.max_output:
        return f"it has {len(node.output)} outputs, not {schema.min_output} to {schema.max_output}"
    for name, parameter in zip(node.input, schema.inputs, strict=False):
        if not name and parameter.option == _Parameter.Single:
            return f"its input {parameter.name!r} is missing"
    if node.output and not node.output[0] and schema.outputs[0].option == _Parameter.Single:
        return f"its output {schema.outputs[0].name!r} is missing"
    names = names_of(node.attribute)
    if len(set(names)) < len(names):
        return "an attribute is there twice"
    if node.op_type == "Constant" and len(names) != 1:
        return f"it has {len(names)} values"
    for name, definition in schema.attributes.items():
        if definition.required and name not in names:
            return f"it has no attribute {name!r}"
    return next(filter(None, (_attribute_problem(attribute, schema) for attribute in node.attribute)), "")


def _attribute_problem(attribute: onnx.AttributeProto, schema: onnx.defs.OpSchema) -> str:
    if attribute.name not in schema.attributes:
        return f"it has an attribute {attribute.name!r}, which is not known"
    expected = str(schema.attributes[attribute.name].type).removeprefix("AttrType.")
    actual = onnx.AttributeProto.AttributeType.Name(attribute.type)
    if actual != expected:
        return f"its attribute {attribute.name!r} is of type {actual}, not {expected}"
    if not all(map(_is_text, (attribute.s, *attribute.strings))):
        return f"its attribute {attribute.name!r} is no text in UTF-8"
    return ""


def _is_text(characters: bytes) -> bool:
    try:
        characters.decode()
    except UnicodeDecodeError:
        return False
    return True
