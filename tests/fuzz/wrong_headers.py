"""Mutations of what surrounds the nodes: inputs, outputs, shapes, operator sets, versions, functions, metadata."""

from __future__ import annotations

import onnx
from onnx import helper

from tests.fuzz.mutations import SIZES, WORDS, Impossible, Rng, chance, graphs, mutation, names, pick


@mutation
def change_dim(proto: onnx.ModelProto, rng: Rng) -> None:
    """A declared dimension: absurd, symbolic, unknown."""
    dim = pick(_declared(proto, rng).type.tensor_type.shape.dim, rng)
    choice = rng.random()
    if choice < 0.5:
        dim.dim_value = pick(SIZES, rng)
    elif choice < 0.9:
        dim.dim_param = pick((*WORDS, "batch", "sequence", "a + b", "2*n", "-1"), rng)
    else:
        dim.Clear()


@mutation
def change_rank(proto: onnx.ModelProto, rng: Rng) -> None:
    kind = _declared(proto, rng).type.tensor_type
    if chance(rng, 0.3):
        kind.ClearField("shape")
    elif chance(rng) or not kind.shape.dim:
        kind.shape.dim.add(dim_value=1)
    else:
        del kind.shape.dim[-1]


@mutation
def change_declared_type(proto: onnx.ModelProto, rng: Rng) -> None:
    info = _declared(proto, rng)
    if chance(rng, 0.7):
        info.type.tensor_type.elem_type = int(rng.integers(-1, 28))
    elif chance(rng):
        info.ClearField("type")
    else:
        info.type.CopyFrom(helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, ["n"])))


@mutation
def rename_declared(proto: onnx.ModelProto, rng: Rng) -> None:
    """An input or output under another name; its uses follow, or do not."""
    info = _declared(proto, rng)
    old, new = info.name, pick([*WORDS, *names(proto.graph)], rng)
    info.name = new
    for node in proto.graph.node if chance(rng, 0.7) else ():
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


@mutation
def add_output(proto: onnx.ModelProto, rng: Rng) -> None:
    """Any value becomes an output: an intermediate one, an input, an initializer, one that is an output already."""
    graph = pick(graphs(proto), rng)
    info = graph.output.add(name=pick(names(graph), rng))
    if chance(rng, 0.7):
        info.type.CopyFrom(helper.make_tensor_type_proto(1, None))


@mutation
def change_output(proto: onnx.ModelProto, rng: Rng) -> None:
    graph = pick(graphs(proto), rng)
    pick(graph.output, rng).name = pick(names(graph), rng)


@mutation
def drop_declared(proto: onnx.ModelProto, rng: Rng) -> None:
    graph = pick(graphs(proto), rng)
    entries = pick((graph.input, graph.output), rng)
    if not entries:
        raise Impossible
    del entries[int(rng.integers(len(entries)))]


@mutation
def list_initializer_as_input(proto: onnx.ModelProto, rng: Rng) -> None:
    tensor = pick(proto.graph.initializer, rng)
    proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


@mutation
def lie_about_shapes(proto: onnx.ModelProto, rng: Rng) -> None:
    """Shapes of values between nodes that nobody has checked."""
    graph = pick(graphs(proto), rng)
    for _ in range(3):
        shape = [pick((*SIZES, "n", None), rng) for _ in range(rng.integers(4))]
        graph.value_info.append(
            helper.make_tensor_value_info(pick([*names(graph), "nothing"], rng), pick((1, 1, 7, 10), rng), shape)
        )


@mutation
def change_opset(proto: onnx.ModelProto, rng: Rng) -> None:
    pick(proto.opset_import, rng).version = pick((*range(-1, 29), *SIZES), rng)


@mutation
def change_imports(proto: onnx.ModelProto, rng: Rng) -> None:
    if chance(rng, 0.5):
        proto.opset_import.add(domain=pick(("", "ai.onnx", "custom", "com.microsoft", "ai.bct"), rng), version=1)
    else:
        proto.opset_import.remove(pick(proto.opset_import, rng))


@mutation
def change_ir_version(proto: onnx.ModelProto, rng: Rng) -> None:
    proto.ir_version = pick((*range(15), *SIZES), rng)


@mutation
def add_metadata(proto: onnx.ModelProto, rng: Rng) -> None:
    for _ in range(2):
        proto.metadata_props.add(key=pick((*WORDS, "bct_onnx.version"), rng), value=pick(WORDS, rng))
    proto.doc_string = pick(WORDS, rng)
    proto.graph.name = pick(WORDS, rng)


@mutation
def sparse(proto: onnx.ModelProto, rng: Rng) -> None:
    proto.graph.sparse_initializer.add(dims=[int(rng.integers(3))])


@mutation
def annotate(proto: onnx.ModelProto, rng: Rng) -> None:
    entry = proto.graph.quantization_annotation.add(tensor_name=pick(names(proto.graph), rng))
    entry.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value=pick(names(proto.graph), rng))


@mutation
def into_function(proto: onnx.ModelProto, rng: Rng) -> None:
    """A node becomes a call of a function that holds it, or, now and then, calls itself."""
    node = pick(proto.graph.node, rng)
    function = proto.functions.add(name=f"boxed{len(proto.functions)}", domain="boxed")
    function.opset_import.extend(proto.opset_import)
    function.opset_import.add(domain="boxed", version=1)
    given = list(dict.fromkeys(name for name in node.input if name))
    function.input[:], function.output[:] = given, node.output
    function.node.add().CopyFrom(node)
    call = helper.make_node(function.name, given, list(node.output), domain="boxed")
    if chance(rng, 0.15):
        function.node[0].CopyFrom(call)
    node.CopyFrom(call)
    if chance(rng, 0.9) and "boxed" not in {entry.domain for entry in proto.opset_import}:
        proto.opset_import.add(domain="boxed", version=1)


@mutation
def break_function(proto: onnx.ModelProto, rng: Rng) -> None:
    function = pick(proto.functions, rng)
    choice = pick(("name", "domain", "repeat", "input", "output", "opset", "drop"), rng)
    if choice == "repeat":
        proto.functions.add().CopyFrom(function)
    elif choice == "opset":
        function.opset_import[0].version = pick((0, 1, 13, 25, 99), rng)
    elif choice == "drop":
        proto.functions.remove(function)
    elif choice in ("name", "domain"):
        setattr(function, choice, pick(WORDS, rng))
    else:
        listed = function.input if choice == "input" else function.output
        listed.append(pick([*WORDS, *listed], rng))


def _declared(proto: onnx.ModelProto, rng: Rng) -> onnx.ValueInfoProto:
    graph = pick(graphs(proto), rng)
    found: list[onnx.ValueInfoProto] = [*graph.input, *graph.input, *graph.output, *graph.value_info]
    return pick(found, rng)
