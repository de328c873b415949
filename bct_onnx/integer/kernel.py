"""What an integer kernel is, how it enters a model, and the proof that it is integer between codes and codes.

A kernel is written once as an onnxscript function over standard operators (opset 23) and once in numpy. Everything
that depends on a code has an integer type; floats occur on the *scale path* only: values computed from scales alone,
with the correctly rounded operations Add, Sub, Mul, Div, Neg, Sqrt, Floor, Ceil, Round, Min, Max and Cast, so that
numpy, the ONNX reference evaluator and ONNX Runtime agree bit for bit. Scales are scalars (then a runtime folds the
scale path at load) or have one value per row, `[..., 1]`.

What ONNX Runtime from 1.23 on has on the CPU: int32 all of this; uint32 too (but its Div takes 2.5 times as long);
8 and 16 bits Add, Sub, Mul (wrapping), but Min and Max on 8 bits only from 1.31 on. BitShift takes unsigned types, and
shifts of 32 and more differ between versions. Div truncates in ONNX Runtime and floors in numpy: only divide what is
not negative. Relu, Abs and Neg on int32 cost half of Max, Min, Add and Mul; Div three times as much.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import onnxscript
import onnxscript.values

from bct_onnx.graph import operators
from bct_onnx.graph.names import by_name, names_of
from bct_onnx.graph.neighbours import outputs_of

DOMAIN = "ai.bct"
OPSET = 23
FLOAT, UINT8, INT32, UINT32 = map(int, (ir.DataType.FLOAT, ir.DataType.UINT8, ir.DataType.INT32, ir.DataType.UINT32))
BCT = onnxscript.values.Opset(DOMAIN, 1)
op: Any = onnxscript.opset23
"""The operators of a kernel, untyped: ``@script(BCT, default_opset=op)``; infix operators work too."""

Array = np.ndarray[Any, Any]

if TYPE_CHECKING:
    Tensor = Any
    """Annotation of what an onnxscript function takes and returns: types are inferred from the inputs."""
else:
    # onnxscript reads typing.Union but not X | Y
    Tensor = Union[onnxscript.UINT8, onnxscript.INT8, onnxscript.INT32, onnxscript.FLOAT]  # noqa: UP007

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclasses.dataclass(frozen=True)
class Valid:
    """The scales with which the bound of a kernel holds: least and greatest of x, of y, and of y's divided by x's.

    Where results are much smaller than the bound it holds, and says nothing: see `bct_onnx.integer.places`.
    """

    x_scale: tuple[float, float] = (0.0, math.inf)
    y_scale: tuple[float, float] = (0.0, math.inf)
    ratio: tuple[float, float] = (0.0, math.inf)
    row: int = 0
    """Most values in a row of what works on rows; 0 where it does not."""

    def refusal(self, name: str, x_scale: float, y_scale: float) -> str:
        """Why these scales are outside; empty where they are not."""
        ratio = y_scale / x_scale if x_scale else math.inf
        for value, (least, greatest), subject in (
            (x_scale, self.x_scale, f"steps of {x_scale:.3g} going in"),
            (y_scale, self.y_scale, f"steps of {y_scale:.3g}"),
            (ratio, self.ratio, f"steps of {y_scale:.3g} from steps of {x_scale:.3g}"),
        ):
            if not least <= value <= greatest:
                return f"{subject} are too {'fine' if value < least else 'coarse'} for {name}"
        return ""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """An integer function: its graph, its numpy reference, what it approximates and how closely.

    Attributes:
        function: The onnxscript function; its docstring is what Netron shows (what, formula, bound).
        reference: The same in numpy, same arguments in the same order, equal bit for bit.
        exact: The real function, float64 to float64, of the real values of the code inputs in order; None for `Lookup`,
            which has no function of its own.
        bound: Greatest absolute error in real units against ``exact``, given the scales (all inputs whose name ends in
            "scale", in order) and apart from saturation: it holds for results that the output codes can represent.
        codes: Names of the inputs that are codes.
        valid: The scales with which the bound holds.
        types: Types of inputs that are neither codes nor zero points (these share the codes' type) nor scales (float).
    """

    function: onnxscript.OnnxFunction[Any, Any]
    reference: Callable[..., Array]
    exact: Callable[..., Array] | None
    bound: Callable[..., Any] | None
    codes: tuple[str, ...] = ("x",)
    types: Mapping[str, ir.DataType] = dataclasses.field(default_factory=dict)
    valid: Valid = dataclasses.field(default_factory=Valid)

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """Name of the function in the domain `ai.bct`."""
        return str(self.function.name)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(inspect.signature(self.function.function).parameters)

    def input_type(self, name: str, codes: ir.DataType = ir.DataType.UINT8) -> ir.DataType:
        """Type of the input ``name`` when the codes have the type ``codes``."""
        if name.endswith("scale"):
            return ir.DataType.FLOAT
        return self.types.get(name, ir.DataType.UINT8 if name == "y_zero_point" else codes)


def i32(value: Any) -> onnx.TensorProto:
    """A constant of int32 for ``op.Constant(value=i32(...))``."""
    return onnx.numpy_helper.from_array(np.asarray(value, np.int32))


def u8(value: Any) -> onnx.TensorProto:
    """A constant of uint8 for ``op.Constant(value=u8(...))``."""
    return onnx.numpy_helper.from_array(np.asarray(value, np.uint8))


def f32(value: Any) -> onnx.TensorProto:
    """A constant of float32 for ``op.Constant(value=f32(...))``."""
    return onnx.numpy_helper.from_array(np.asarray(value, np.float32))


def model_functions(kernel: Kernel) -> tuple[ir.Function, ...]:
    """The function of ``kernel`` after those it calls (the ONNX reference evaluator wants this order).

    Nodes are called `<function>/<value>`, the description is the docstring on one line: equal on every call.
    """
    messages = map(_message, _with_callees(kernel.function))
    return tuple(map(ir.serde.deserialize_function, messages))


def model_of(kernel: Kernel, codes: ir.DataType = ir.DataType.UINT8) -> ir.Model:
    """A model of the kernel alone: its inputs, one call, its output ``y`` (shapes unknown)."""
    return ir.from_proto(_proto(kernel, codes))


def float_values_depending_on_codes(kernel: Kernel, codes: ir.DataType = ir.DataType.UINT8) -> list[str]:
    """The proof: names of values that depend on a code but are float, or whose type is unknown. It must be empty.

    Called functions are inlined and all types inferred; a value depends on a code when a path of nodes leads from a
    code input to it (through more than its shape).
    """
    proto = onnx.inliner.inline_local_functions(_proto(kernel, codes))
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)).graph
    depending = {value for value in graph.inputs if value.name in kernel.codes}
    for node in graph:
        if operators.kind(node) != "shape" and depending.intersection(node.inputs):
            depending.update(node.outputs)
    return sorted(str(value.name) for value in depending if value.dtype is None or value.dtype in _FLOATS)


def _proto(kernel: Kernel, codes: ir.DataType) -> onnx.ModelProto:
    inputs = [onnx.helper.make_tensor_value_info(n, kernel.input_type(n, codes), None) for n in kernel.inputs]
    outputs = [onnx.ValueInfoProto(name="y")]
    call = onnx.helper.make_node(kernel.name, kernel.inputs, ["y"], domain=DOMAIN)
    functions = list(map(ir.serde.serialize_function, model_functions(kernel)))
    opsets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(DOMAIN, 1)]
    graph = onnx.helper.make_graph([call], kernel.name, inputs, outputs)
    proto = onnx.helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)
    return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)


def _with_callees(function: onnxscript.OnnxFunction[Any, Any]) -> Collection[onnxscript.OnnxFunction[Any, Any]]:
    callees = {}
    for callee in function.function_ir.get_called_functions().values():
        callees.update(by_name(_with_callees(callee)))
    return {**callees, function.name: function}.values()


@functools.cache
def _message(source: onnxscript.OnnxFunction[Any, Any]) -> onnx.FunctionProto:
    """A function as protobuf, made once: it takes milliseconds, and models need it again and again."""
    return ir.serde.serialize_function(_function(source))


def _function(source: onnxscript.OnnxFunction[Any, Any]) -> ir.Function:
    function = ir.serde.deserialize_function(source.to_function_proto())
    function.doc_string = " ".join(inspect.cleandoc(source.function.__doc__ or "").split())
    if function.outputs[0].name == "return_val":  # returned without a variable
        names = set(names_of(outputs_of(function)))
        function.outputs[0].name = "result" if "y" in names else "y"
    for place, node in enumerate(function):
        for value in node.outputs:
            if str(value.name).startswith("tmp"):  # what has no variable in the source
                value.name = f"{node.op_type.lower()}_{place}"
        node.name = f"{source.name}/{node.outputs[0].name}"
    return function
