"""Standard operators whose results have the types and shapes of those of ONNX Runtime's own.

ONNX shape inference stops at operators that it does not know, and with it all that is known of types and shapes behind
them. In the copy of a model that inference looks at, others stand for them; what they compute means nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet

import onnx
from onnx import helper

from bct_onnx.graph.protobuf import subgraphs

_Node = onnx.NodeProto

_LIKE_INPUT = {
    **dict.fromkeys(("BiasAdd", "BiasGelu", "FastGelu", "Gelu", "QuickGelu", "RotaryEmbedding", "Trilu", "MoE"), (0,)),
    **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), (0, 3)),
    "DecoderMaskedMultiHeadAttention": (0,),
    "SimplifiedLayerNormalization": (0,),
}
"""Outputs that are as the first input, by operator."""


def replace(graph: onnx.GraphProto, bytes_outside: AbstractSet[str] = frozenset()) -> None:
    """Put stand-ins into a graph and its subgraphs, in place; operators that are not known here stay.

    Args:
        graph: What inference looks at.
        bytes_outside: Names of constants of bytes (uint8) in the graphs around it.
    """
    constants = bytes_outside | set(_bytes(graph))
    nodes = list(itertools.chain.from_iterable(_stand_ins(node, constants) for node in graph.node))
    del graph.node[:]
    graph.node.extend(nodes)
    for node in graph.node:
        for inner in subgraphs(node.attribute):
            replace(inner, constants)


def _bytes(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of constants of bytes, which may be inputs here."""
    for info in graph.input:
        if info.type.tensor_type.elem_type == onnx.TensorProto.UINT8:
            yield info.name
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.UINT8:
            yield tensor.name


def _stand_ins(node: _Node, constants: AbstractSet[str]) -> list[_Node]:
    if node.op_type == "GatherBlockQuantized" and node.domain == "com.microsoft":
        return list(_lookup(node, is_packed=node.input[0] in constants and _attribute(node, "bits", 4) == 4))
    if node.domain != "com.microsoft" and node.op_type != "SimplifiedLayerNormalization":
        return [node]
    outputs = [index for index in _LIKE_INPUT.get(node.op_type, ()) if index < len(node.output) and node.output[index]]
    if outputs:
        return [helper.make_node("Identity", node.input[:1], [node.output[index]]) for index in outputs]
    rule = _RULES.get(node.op_type)
    return [node] if rule is None else list(rule(node))


def _attribute(node: _Node, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def _lookup(node: _Node, *, is_packed: bool) -> Iterator[_Node]:
    """Rows of a table in the type of its scales; a byte may hold two numbers of a row."""
    rows, wide = node.output[0] + "/rows", node.output[0] + "/wide"
    yield helper.make_node("Gather", node.input[:2], [rows], axis=_attribute(node, "gather_axis", 0))
    yield helper.make_node("Concat", [rows, rows] if is_packed else [rows], [wide], axis=-1)
    yield helper.make_node("CastLike", [wide, node.input[2]], node.output)


def _embeddings(node: _Node) -> Iterator[_Node]:
    for index in (0, 2):
        if index < len(node.output) and node.output[index]:
            yield helper.make_node("Gather", [node.input[2], node.input[0]], [node.output[index]])
    if len(node.output) > 1 and node.output[1]:
        row = node.output[1] + "/row"
        yield helper.make_node("ArgMax", [node.input[0]], [row], axis=1, keepdims=0)
        yield helper.make_node("Cast", [row], [node.output[1]], to=onnx.TensorProto.INT32)


def _attention(node: _Node) -> Iterator[_Node]:
    """As wide as the values' part of the weight."""
    sizes = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "qkv_hidden_sizes"), [])
    parts = [f"{node.output[0]}/{which}" for which in "qkv"]
    if sizes:
        yield helper.make_node("Constant", [], [parts[0] + "/sizes"], value_ints=sizes)
        yield helper.make_node("Split", [node.input[1], parts[0] + "/sizes"], parts, axis=1)
    else:
        yield helper.make_node("Split", [node.input[1]], parts, axis=1, num_outputs=3)
    yield helper.make_node("MatMul", [node.input[0], parts[2]], node.output[:1])


def _multi_head(node: _Node) -> Iterator[_Node]:
    """As many rows as queries, as wide as the values."""
    if len(node.input) < 3 or not node.input[2]:
        yield node
        return
    yield helper.make_node("Einsum", [node.input[0], node.input[2]], node.output[:1], equation="bsq,btv->bsv")


def _grouped(node: _Node) -> Iterator[_Node]:
    """As the queries, which may be packed with the keys and values."""
    if len(node.input) > 1 and node.input[1]:
        yield helper.make_node("Identity", node.input[:1], node.output[:1])
        return
    heads, others = _attribute(node, "num_heads", 1), _attribute(node, "kv_num_heads", 1)
    parts = [f"{node.output[0]}/{index}" for index in range(heads + 2 * others)]
    yield helper.make_node("Split", node.input[:1], parts, axis=-1, num_outputs=len(parts))
    yield helper.make_node("Concat", parts[:heads], node.output[:1], axis=-1)


def _matmul(node: _Node) -> Iterator[_Node]:
    if _attribute(node, "transBatchA", 0) or _attribute(node, "transBatchB", 0):
        yield node
        return
    a = "ba" if _attribute(node, "transA", 0) else "ab"
    b = "cb" if _attribute(node, "transB", 0) else "bc"
    yield helper.make_node("Einsum", node.input, node.output, equation=f"...{a},...{b}->...ac")


def _without_activation(node: _Node) -> Iterator[_Node]:
    plain = helper.make_node(node.op_type.removeprefix("Fused"), node.input[:3], node.output)
    plain.attribute.extend(attribute for attribute in node.attribute if not attribute.name.startswith("activation"))
    yield plain


def _product(node: _Node) -> Iterator[_Node]:
    yield helper.make_node("MatMul", node.input[:2], node.output)


def _integers_to_float(node: _Node) -> Iterator[_Node]:
    """A product of integers in the type of its first scale."""
    sums = node.output[0] + "/sums"
    yield helper.make_node("MatMulInteger", node.input[:2], [sums])
    yield helper.make_node("CastLike", [sums, node.input[2]], node.output)


def _quantizer(node: _Node) -> Iterator[_Node]:
    """The standard one, with one scale: shapes and types are those of any."""
    yield helper.make_node(node.op_type, node.input, node.output)


def _half(node: _Node) -> Iterator[_Node]:
    halves = [node.output[0], node.output[0] + "/right"]
    yield helper.make_node("Split", node.input[:1], halves, axis=-1, num_outputs=2)


_RULES: dict[str, Callable[[_Node], Iterator[_Node]]] = {
    "Attention": _attention,
    "BiasSplitGelu": _half,
    "DequantizeLinear": _quantizer,
    "EmbedLayerNormalization": _embeddings,
    "FusedConv": _without_activation,
    "FusedGemm": _without_activation,
    "FusedMatMul": _matmul,
    "GemmFastGelu": _product,
    "GroupQueryAttention": _grouped,
    "MatMulIntegerToFloat": _integers_to_float,
    "MultiHeadAttention": _multi_head,
    "QuantizeLinear": _quantizer,
    "TransposeMatMul": _matmul,
}
