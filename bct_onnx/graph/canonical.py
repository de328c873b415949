"""A graph as text in which names play no part: two graphs that do the same in the same way give equal texts.

Values are numbered in the order in which the outputs need them, attributes are sorted, small constants are written out
where they are used and big ones are named by a hash of their data, so that sharing shows. Metadata is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from bct_onnx.graph import tensors
from bct_onnx.graph.known import dims_of
from bct_onnx.graph.neighbours import producers, read_by
from bct_onnx.graph.operators import dotted

_INLINE = 16
"""Constants of at most this many elements are written out."""


def canonical_text(model: ir.Model) -> str:
    """Describe the graph of ``model`` and its functions, one node per line.

    >>> def text(names):
    ...     x, h, y = names
    ...     return ir.from_onnx_text(f'''<ir_version: 10, opset_import: ["": 23]> g (float[n] {x}) => (float[n] {y})
    ...         <float[1] one = {{1.0}}> {{ {h} = Add (one, {x})  {y} = Softmax <axis = -1> ({h}) }}''')
    >>> print(canonical_text(text("xhy")))
    opset 23
    inputs %0: float[n]
    %1 = Add (float[1]{1.0}, %0)
    %2 = Softmax <axis=-1> (%1)
    outputs %2: float[n]
    >>> canonical_text(text("xhy")) == canonical_text(text("abc"))
    True
    """
    imports = ", ".join(f"{domain or 'opset'} {version}" for domain, version in sorted(model.opset_imports.items()))
    lines = [imports, *_Writer().graph(model.graph, "")]
    for function in sorted(model.functions.values(), key=lambda function: function.identifier()):
        lines += ["", f"function {function.domain}.{function.name}{sorted(function.attributes)}"]
        lines += _Writer().graph(function.graph, "")
    return "\n".join(lines)


class _Writer:
    """The text of one graph and its subgraphs; holds the numbers given so far."""

    def __init__(self) -> None:
        self._numbers: dict[ir.Value, str] = {}

    def graph(self, graph: ir.Graph, indent: str) -> Iterator[str]:
        if graph.inputs:
            yield f"{indent}inputs " + ", ".join(f"{self._number(value)}: {_type(value)}" for value in graph.inputs)
        for node in _ordered(graph):
            yield from self._big_constants(node, indent)
            yield from self._node(node, indent)
        yield f"{indent}outputs " + ", ".join(f"{self._operand(value)}: {_type(value)}" for value in graph.outputs)

    def _node(self, node: ir.Node, indent: str) -> Iterator[str]:
        operands = ", ".join(map(self._operand, node.inputs))
        plain, graphs = [], []
        for name in sorted(node.attributes):
            attribute = node.attributes[name]
            if attribute.type == ir.AttributeType.GRAPH:
                graphs.append((name, attribute.as_graph()))
            else:
                plain.append(f"{name}={_attribute(attribute)}")
        outputs = ", ".join(map(self._number, node.outputs))
        operator = dotted(node)
        attributes = f"<{', '.join(plain)}> " if plain else ""
        yield f"{indent}{outputs} = {operator} {attributes}({operands})"
        for name, graph in graphs:
            yield f"{indent}  {name}:"
            yield from self.graph(graph, indent + "    ")

    def _big_constants(self, node: ir.Node, indent: str) -> Iterator[str]:
        for value in node.inputs:
            if value is not None and value.is_initializer() and value not in self._numbers and _is_big(value):
                yield f"{indent}{self._number(value)} = {_type(value)} sha256:{_digest(value)}"

    def _operand(self, value: ir.Value | None) -> str:
        if value is None:
            return "_"
        if value not in self._numbers and value.const_value is not None and value.is_initializer():
            return f"{_type(value)}{_elements(tensors.array(value))}"
        return self._number(value)

    def _number(self, value: ir.Value) -> str:
        return self._numbers.setdefault(value, f"%{len(self._numbers)}")


def _ordered(graph: ir.Graph) -> list[ir.Node]:
    """Nodes in the order in which the outputs need them, depth first; then those that no output needs."""
    order: dict[ir.Node, None] = {}
    for root in [*producers(graph.outputs), *graph]:
        stack = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if node.graph is not graph or node in order:
                continue
            if ready:
                order[node] = None
                continue
            stack.append((node, True))
            stack += [(producer, False) for producer in reversed(producers(read_by(node)))]
    return list(order)


def _type(value: ir.Value) -> str:
    kind = str(value.dtype).lower() if value.dtype is not None else "?"
    if value.shape is None:
        return kind
    dims = ",".join(str(dim or "?") for dim in dims_of(value.shape))
    return f"{kind}[{dims}]"


def _attribute(attribute: ir.Attr) -> str:
    if attribute.is_ref():
        return f"@{attribute.ref_attr_name}"
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        data = tensor.numpy()
        shape = ",".join(map(str, data.shape))
        return f"{str(tensor.dtype).lower()}[{shape}]{_elements(data)}"
    if attribute.type == ir.AttributeType.FLOAT:
        return str(np.float32(attribute.as_float()))
    if attribute.type == ir.AttributeType.FLOATS:
        return _elements(np.array(attribute.as_floats(), np.float32))
    if isinstance(attribute.value, (list, tuple)):
        return str(list(attribute.value))
    return str(attribute.value)


def _is_big(value: ir.Value) -> bool:
    return value.const_value is not None and value.const_value.size > _INLINE


def _elements(data: tensors.Array) -> str:
    if data.size > _INLINE:
        return " sha256:" + hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest()[:16]
    return "{" + ", ".join(map(str, data.reshape(-1))) + "}"  # what reads back to the same number in its type


def _digest(value: ir.Value) -> str:
    data = tensors.array(value)
    digest = hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest()[:16]
    tensors.release(value)
    return digest
