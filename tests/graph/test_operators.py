"""The table of operators: at one with the schemas of ONNX and ONNX Runtime, and with this package's functions."""

from __future__ import annotations

import re
from collections import Counter

import onnx
import onnx_ir as ir
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from bct_onnx.graph import functions, operators
from bct_onnx.integer import KERNELS

NEWEST = pytest.mark.since("1.32", "older ones lack operators of the table")

NAMES = {
    "activation": "A a X x input data",
    "weight": "B b W w weight data table ones twos fours eights",
    "bias": "B C bias beta",
    "gain": "Scale scale",
    "scale": "a_scale x_scale y_scale input_scale",
    "zero-point": "a_zero_point x_zero_point y_zero_point input_zero_point",
    "weight-scale": "b_scale w_scale W_scale weight_scale scales absmax scale",
    "weight-zero-point": "b_zero_point w_zero_point W_zero_point weight_zero_point zero_points",
    "result-scale": "y_scale",
    "result-zero-point": "y_zero_point",
    "recurrence": "R",
    "recurrence-scale": "R_scale",
    "recurrence-zero-point": "R_zero_point",
    "addend": "b",
    "addend-scale": "b_scale",
    "addend-zero-point": "b_zero_point",
    "indices": "indices",
    "place": "places",
    "multipliers": "multipliers",
    "mask": "mask_index",
    "past": "past",
    "lengths": "sequence_lens",
    "hidden": "initial_h",
    "cell": "initial_c",
    "peephole": "P",
    "order": "g_idx",
}
"""What schemas call an input of each role."""

QUANTIZED = re.compile(
    r"DequantizeLinear|QuantizeLinear|DynamicQuantize|MatMulNBits|MatMulBnb4|(MatMul|Conv)Integer|QLinear|QGemm|QAttention"
    r"|QMoE|QOrdered|QEmbed|GatherBlockQuantized"
)
"""Names of operators that only quantizers make."""


def inputs_of(operator: str) -> list[str]:
    """The inputs of an operator as its schema, its function or its kernel has them."""
    domain, _, op_type = operator.rpartition("::")
    if op_type in KERNELS:
        return list(KERNELS[op_type].inputs)
    if domain == functions.DOMAIN:
        model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 23}), ir_version=10)
        functions.use(model, op_type)
        return [value.name or "" for value in model.functions[domain, op_type, ""].inputs]
    if not domain:
        return [one.name for one in onnx.defs.get_schema(op_type).inputs]
    return next(
        [one.name for one in schema.inputs]
        for schema in runtime.get_all_operator_schema()
        if (schema.domain, schema.name) == (domain, op_type)
    )


WITH_INPUTS = [name for name, operator in operators._table().items() if operator.inputs]


@pytest.mark.parametrize("name", WITH_INPUTS)
def test_inputs_are_those_of_the_schema(name: str) -> None:
    operator = operators._table()[name]
    called = inputs_of(name)
    assert len(called) == len(operator.inputs), called
    for index, (role, schema_name) in enumerate(zip(operator.inputs, called, strict=True)):
        assert schema_name in NAMES[role].split(), f"{role} is called {schema_name}"
        is_repeated = operator.inputs.count(role) > 1
        assert operator.role(index) == role
        assert is_repeated or called[operator.place(role) or 0] == schema_name


@NEWEST
def test_every_operator_exists_and_has_one_kind() -> None:
    listed = Counter(name for names in operators._KINDS.values() for name in names.split())
    assert max(listed.values()) == 1
    known = {operators.name(schema.domain, schema.name) for schema in runtime.get_all_operator_schema()}
    known |= {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    known |= {operators.name(functions.DOMAIN, name) for name in (*functions.names(), *KERNELS)}
    assert listed.keys() <= known, listed.keys() - known


def test_operators_of_a_kind_are_called_alike() -> None:
    """What can be told from names: nothing of the kind is left out."""
    standard = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    assert operators.named("reduction") == {name for name in standard if name.startswith("Reduce")}
    assert operators.named("random") == {
        name for name in standard if name.startswith(("Random", "Bernoulli", "Multinomial"))
    }
    graphs = {
        schema.name
        for schema in onnx.defs.get_all_schemas()
        if not schema.domain
        and any(one.type == onnx.defs.OpSchema.AttrType.GRAPH for one in schema.attributes.values())
    }
    assert operators.named("control") == graphs - {"SequenceMap"}
    own = {operators.name(functions.DOMAIN, name) for name in functions.names()}
    assert operators.named("decoder") >= {name for name in own if "Decode" in name or "Unpack" in name}


@NEWEST
def test_what_only_quantizers_make() -> None:
    schemas = runtime.get_all_operator_schema()
    named = {operators.name(one.domain, one.name) for one in schemas if QUANTIZED.match(one.name)}
    own = {name for name in operators.named(*operators.QUANTIZED) if name.startswith(functions.DOMAIN)}
    assert operators.named(*operators.QUANTIZED) - own == named


def test_elements_at_their_own_place_keep_the_shape_of_a_broadcast() -> None:
    """Shape inference of ONNX agrees on the kinds that look at one element of each input."""
    for name in operators.named("arithmetic", "activation", "test", "choice"):
        if "::" in name:
            continue
        schema = onnx.defs.get_schema(name)
        assert len(schema.outputs) == 1, name
        count = schema.min_input
        values = [onnx.helper.make_tensor_value_info(f"x{i}", _element(schema, i), [3, 4]) for i in range(count)]
        attributes = {"direction": "LEFT"} if name == "BitShift" else {}
        node = onnx.helper.make_node(name, [value.name for value in values], ["y"], **attributes)
        output = onnx.helper.make_empty_tensor_value_info("y")
        model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", values, [output]))
        (given,) = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output
        assert [dim.dim_value for dim in given.type.tensor_type.shape.dim] == [3, 4], name


def _element(schema: onnx.defs.OpSchema, index: int) -> int:
    """A type that an input takes."""
    kind = schema.inputs[min(index, len(schema.inputs) - 1)].type_str
    types = {one.type_param_str: one.allowed_type_strs for one in schema.type_constraints}.get(kind, [kind])
    wanted = next(one for one in ("tensor(float)", "tensor(uint8)", "tensor(bool)") if one in types)
    return int(onnx.TensorProto.DataType.Value(wanted.removeprefix("tensor(").removesuffix(")").upper()))
