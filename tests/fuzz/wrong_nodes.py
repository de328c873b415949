"""Mutations of nodes: their operators, edges, order and attributes."""

from __future__ import annotations

import onnx
from onnx import helper

from bct_onnx.graph.protobuf import subgraphs
from tests.fuzz.mutations import SIZES, WORDS, Impossible, Rng, body, chance, mutation, names, node, pick

OPERATORS = (
    "Add", "Attention", "BatchNormalization", "Cast", "Concat", "Constant", "ConstantOfShape", "Conv", "Div", "Dropout",
    "DequantizeLinear", "Einsum", "Equal", "Erf", "Expand", "Flatten", "Gather", "Gelu", "Gemm", "Identity", "If",
    "LayerNormalization", "Loop", "MatMul", "MatMulInteger", "Mul", "Neg", "NonZero", "OptionalGetElement", "Pow",
    "QuantizeLinear", "RMSNormalization", "Range", "ReduceMean", "Relu", "Reshape", "Resize", "RotaryEmbedding", "Scan",
    "SequenceEmpty", "Shape", "Sigmoid", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose",
    "Unsqueeze", "Upsample", "Where", "NoSuchOperator",
)  # fmt: skip
DOMAINS = ("", "ai.onnx", "com.microsoft", "ai.bct", "ai.onnx.ml", "custom", "local")
UNARY = ("Identity", "Neg", "Abs", "Relu", "Tanh", "Sigmoid", "Erf", "Softmax", "Gelu", "Dropout", "Round", "Shape")


@mutation
def drop_node(proto: onnx.ModelProto, rng: Rng) -> None:
    nodes = body(proto, rng).node
    del nodes[int(rng.integers(len(nodes)))]


@mutation
def repeat_node(proto: onnx.ModelProto, rng: Rng) -> None:
    """The same node again: with the same outputs, or others that nothing reads."""
    nodes = body(proto, rng).node
    again = nodes.add()
    again.CopyFrom(pick(nodes[:-1], rng))
    if chance(rng, 0.8):
        again.output[:] = [f"{name}_again" for name in again.output]


@mutation
def shuffle_nodes(proto: onnx.ModelProto, rng: Rng) -> None:
    nodes = body(proto, rng).node
    order = [onnx.NodeProto.FromString(nodes[i].SerializeToString()) for i in rng.permutation(len(nodes))]
    del nodes[:]
    nodes.extend(order)


@mutation
def rewire(proto: onnx.ModelProto, rng: Rng) -> None:
    """A node reads another value of its graph; this can make a cycle."""
    where = body(proto, rng)
    one = pick([each for each in where.node if each.input], rng)
    one.input[int(rng.integers(len(one.input)))] = pick(names(where), rng)


@mutation
def rewire_forward(proto: onnx.ModelProto, rng: Rng) -> None:
    """A node reads another earlier value: the graph stays acyclic, and often sound."""
    nodes = body(proto, rng).node
    i = int(rng.integers(1, max(2, len(nodes))))
    if i >= len(nodes) or not nodes[i].input:
        raise Impossible
    earlier = [name for each in nodes[:i] for name in each.output if name]
    nodes[i].input[int(rng.integers(len(nodes[i].input)))] = pick(earlier, rng)


@mutation
def empty_input(proto: onnx.ModelProto, rng: Rng) -> None:
    one = node(proto, rng)
    if not one.input:
        raise Impossible
    one.input[int(rng.integers(len(one.input)))] = ""


@mutation
def change_inputs(proto: onnx.ModelProto, rng: Rng) -> None:
    """One input more or less, or two in the other order."""
    one = node(proto, rng)
    if chance(rng, 0.4) or not one.input:
        one.input.append(pick([*one.input, *one.output, ""], rng))
    elif chance(rng):
        del one.input[int(rng.integers(len(one.input)))]
    else:
        one.input[:] = list(one.input)[::-1]


@mutation
def change_outputs(proto: onnx.ModelProto, rng: Rng) -> None:
    one = node(proto, rng)
    if chance(rng, 0.4) or not one.output:
        one.output.append(pick(["extra", "", *one.output], rng))
    elif chance(rng):
        del one.output[int(rng.integers(len(one.output)))]
    else:
        one.output[int(rng.integers(len(one.output)))] = pick([*names(body(proto, rng)), *WORDS], rng)


@mutation
def change_operator(proto: onnx.ModelProto, rng: Rng) -> None:
    node(proto, rng).op_type = pick(OPERATORS, rng)


@mutation
def change_to_like(proto: onnx.ModelProto, rng: Rng) -> None:
    """Another operator with as many inputs: the graph often stays valid."""
    one = node(proto, rng)
    one.op_type = pick(UNARY if len(one.input) == 1 else ("Add", "Sub", "Mul", "Div", "Pow", "MatMul", "Max"), rng)


@mutation
def change_domain(proto: onnx.ModelProto, rng: Rng) -> None:
    one = node(proto, rng)
    one.domain = pick(DOMAINS, rng)
    if chance(rng) and one.domain not in {entry.domain for entry in proto.opset_import}:
        proto.opset_import.add(domain=one.domain, version=1)


@mutation
def rename_nodes(proto: onnx.ModelProto, rng: Rng) -> None:
    for _ in range(3):
        node(proto, rng).name = pick([*WORDS, node(proto, rng).name], rng)


@mutation
def insert_node(proto: onnx.ModelProto, rng: Rng) -> None:
    """One operator more on an edge: valid as long as types allow."""
    nodes = body(proto, rng).node
    at = int(rng.integers(len(nodes)))
    if not nodes[at].input or not nodes[at].input[0]:
        raise Impossible
    fed = nodes[at].input[0]
    inserted = f"inserted_{rng.integers(1000)}"
    nodes[at].input[0] = inserted
    if chance(rng, 0.8):
        nodes.insert(at, helper.make_node(pick(UNARY, rng), [fed], [inserted]))
    else:
        nodes.insert(at, helper.make_node("Cast", [fed], [inserted], to=pick((1, 6, 7, 9, 10, 11, 16), rng)))


DEEPEST = 30
"""Levels of graphs in graphs, each of which is three messages: protobuf reads a hundred in one another."""


def _depth(node: onnx.NodeProto) -> int:
    """How many levels of graphs are in a node."""
    depths = [0]
    for graph in subgraphs(node.attribute):
        depths += [1 + _depth(inner) for inner in graph.node]
    return max(depths)


@mutation
def nest(proto: onnx.ModelProto, rng: Rng) -> None:
    """A node goes into the branches of an If, once or many levels deep."""
    nodes = body(proto, rng).node
    moved = pick(nodes, rng)
    if not moved.output:
        raise Impossible
    inner = onnx.NodeProto.FromString(moved.SerializeToString())
    last = _branch(inner, "last")
    levels = pick((1, 1, 1, 2, 12, 28), rng)
    if levels + _depth(inner) > DEEPEST:
        raise Impossible
    for level in range(levels):
        outer = [f"{name}_{level}" if chance(rng, 0.9) else name for name in moved.output]
        branches = {"then_branch": _branch(inner, f"level{level}"), "else_branch": last}
        inner = helper.make_node("If", ["condition"], outer, **branches)
    inner.output[:] = moved.output
    moved.CopyFrom(inner)
    nodes.insert(0, helper.make_node("Constant", [], ["condition"], value=helper.make_tensor("", 9, [], [chance(rng)])))


@mutation
def change_attribute(proto: onnx.ModelProto, rng: Rng) -> None:
    attribute = _attribute(proto, rng)
    if attribute.type == onnx.AttributeProto.INT:
        attribute.i = pick(SIZES, rng)
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = pick((0.0, -1.0, float("nan"), float("inf"), 1e-45, 3e38), rng)
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = pick((b"", b"NOTSET", b"\xff\xfe", b"x" * 1000, b"tanh"), rng)
    elif attribute.type == onnx.AttributeProto.INTS:
        changed = [*attribute.ints, pick(SIZES, rng)]
        attribute.ints[:] = rng.permutation(changed)[: rng.integers(len(changed) + 1)].tolist()
    else:
        attribute.type = pick(onnx.AttributeProto.AttributeType.values(), rng)


@mutation
def break_attribute(proto: onnx.ModelProto, rng: Rng) -> None:
    """Gone, twice, called something else, of another type, or referring to a function's attribute."""
    one = node(proto, rng)
    attribute = pick(one.attribute, rng)
    choice = pick(("drop", "repeat", "rename", "type", "refer"), rng)
    if choice == "drop":
        one.attribute.remove(attribute)
    elif choice == "repeat":
        one.attribute.add().CopyFrom(attribute)
    elif choice == "rename":
        attribute.name = pick((*WORDS, "axis", "to", "body", "value"), rng)
    elif choice == "type":
        attribute.type = pick(onnx.AttributeProto.AttributeType.values(), rng)
    else:
        attribute.ref_attr_name = "alpha"


@mutation
def add_attribute(proto: onnx.ModelProto, rng: Rng) -> None:
    name = pick(("axis", "axes", "to", "perm", "alpha", "keepdims", "transA", "transB", "epsilon", "value", "own"), rng)
    value = pick((0, 1, -1, 2**40, 0.5, "text", [0, 1], [-1]), rng)
    node(proto, rng).attribute.append(helper.make_attribute(name, value))


def _branch(node: onnx.NodeProto, name: str) -> onnx.GraphProto:
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    return onnx.GraphProto(name=name, node=[node], output=outputs)


def _attribute(proto: onnx.ModelProto, rng: Rng) -> onnx.AttributeProto:
    found: list[onnx.AttributeProto] = [attribute for _ in range(8) for attribute in node(proto, rng).attribute]
    return pick(found, rng)
