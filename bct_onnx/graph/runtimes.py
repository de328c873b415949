"""Which versions of ONNX Runtime run a model: all of its operators against the tables of `bct_onnx.graph.kernels`.

A `Use` is what a table can be asked about: one operator with the types of its inputs and its attributes. A model has
few of them, however many nodes it has. What is computed from constants alone counts too, since a runtime folds with the
same kernels, and so do the bodies of functions.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

import onnx
import onnx_ir as ir

from bct_onnx.graph import functions, kernels, operators, shapes
from bct_onnx.graph.kernels import Kernel, Runtime
from bct_onnx.graph.neighbours import provided
from bct_onnx.graph.opset import imports_of
from bct_onnx.graph.propagation import quantizers_written

_FUNCTIONS = ("has_function", "has_context_dependent_function")
"""Attributes of a schema whose operator is one function, or one for each of its types (onnx's type stubs lack them)."""

_WIDENED = "float16"
"""The type that ONNX Runtime runs as float32 where it has no kernel for it."""


@dataclasses.dataclass(frozen=True)
class Use:
    """An operator as a model uses it.

    Attributes:
        operator: As target files name it.
        types: Element types of the inputs, as target files spell them; empty where one is left out or not known.
        attributes: Names and values; the values of integers alone, None for others.
    """

    operator: str
    types: tuple[str, ...]
    attributes: tuple[tuple[str, int | None], ...]


@dataclasses.dataclass(frozen=True)
class Lowest:
    """The oldest ONNX Runtime that runs a model.

    Attributes:
        version: As in "1.23".
        release: The release that was looked at, as in "1.23.1".
        reason: What the version before it lacks; empty where none before it is known.
    """

    version: str
    release: str
    reason: str


def expanded(model: ir.Model) -> ir.Model:
    """A copy with types and shapes, without functions but those that are gone once a model is loaded."""
    copy = functions.inlined(model, keep=functions.DECODING)
    shapes.infer(copy)
    return copy


def lowest(model: ir.Model, copy: ir.Model | None = None) -> Lowest | None:
    """The oldest version that runs a model, as all later ones do; None where the newest does not.

    ``copy`` is the model `expanded`, where it is at hand.
    """
    every, oldest, reason = uses(model, copy), "", ""
    for version in reversed(kernels.versions()):
        reason = problem(model, every, kernels.runtime(version))
        if reason:
            break
        oldest = version
    if oldest:
        return Lowest(oldest, kernels.runtime(oldest).release, reason)
    return None


def problem(model: ir.Model, every: Iterable[Use], runtime: Runtime) -> str:
    """Why a version does not run a model; empty if it does."""
    opset, ir_version = model.opset_imports.get("", 1), needed_ir_version(model)
    if opset > runtime.opset:
        return f"{runtime.version} loads no opset {opset}"
    if ir_version > runtime.ir_version:
        return f"{runtime.version} loads no files of IR version {ir_version}"
    for use in every:
        if reason := lacks(runtime, use, opset):
            return f"{use.operator}: {reason}"
    return ""


def needed_ir_version(model: ir.Model) -> int:
    """The version of the file format that a model gets when it is saved."""
    imports = imports_of(model)
    needed: int = onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True)
    return max(model.ir_version, needed)


def uses(model: ir.Model, copy: ir.Model | None = None) -> list[Use]:
    """All that a model uses, subgraphs and functions included, in an order of its own; what the runtime writes too.

    ``copy`` is the model `expanded`, where it is at hand.
    """
    copy = copy or expanded(model)
    operators: set[Use] = set()
    calls: dict[Use, ir.Node] = {}
    for node in copy.graph.all_nodes():
        use = use_of(node)
        if node.op_identifier() in copy.functions:
            calls.setdefault(dataclasses.replace(use, attributes=()), node)
        else:
            operators.add(use)
    for call in calls.values():
        operators |= _inside(model, call)
    if quantizers_written(copy.graph.all_nodes()):
        operators.add(Use("QuantizeLinear", (), ()))
    return sorted(operators, key=repr)


def _inside(model: ir.Model, call: ir.Node) -> frozenset[Use]:
    """What a function of this program uses when it is called with these types."""
    inputs: list[ir.Value | None] = [None] * len(call.inputs)
    for at, value in enumerate(call.inputs):
        if value is not None:
            inputs[at] = ir.Value(name=f"x{at}", type=value.type)
    node = ir.Node(call.domain, call.op_type, inputs, list(call.attributes.values()), num_outputs=len(call.outputs))
    graph = ir.Graph(provided(inputs), node.outputs, nodes=[node], opset_imports=model.opset_imports)
    small = ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))
    small = functions.inlined(small)
    shapes.infer(small)
    return frozenset(map(use_of, small.graph.all_nodes()))


def use_of(node: ir.Node) -> Use:
    """What a node uses."""
    attributes: list[tuple[str, int | None]] = []
    for name, attribute in node.attributes.items():
        is_number = attribute.type == ir.AttributeType.INT and not attribute.is_ref()
        attributes.append((name, attribute.as_int() if is_number else None))
    types = tuple(map(type_name, node.inputs))
    return Use(operators.identifier(node), types, tuple(sorted(attributes, key=repr)))


def lacks(runtime: Runtime, use: Use, opset: int) -> str:
    """Why a version does not run an operator in a model of this opset; empty if it does."""
    if use.operator == "Constant":
        return ""
    covering = runtime.covering(use.operator, kernels.version(use.operator, opset))
    if not covering:
        if opset in runtime.expanded.get(use.operator, ()):
            return ""
        of_opset = f" of opset {opset}" if runtime.knows(use.operator) else ""
        return f"ONNX Runtime {runtime.version} has no such operator{of_opset}"
    if reason := _unknown(runtime, use):
        return reason
    reasons = [_mismatch(runtime, use, kernel, opset) for kernel in covering]
    if "" in reasons or is_function(use.operator, opset):
        return ""
    return reasons[-1]


def _unknown(runtime: Runtime, use: Use) -> str:
    """An attribute, a value of one, or an input that the version does not know."""
    known = runtime.attributes.get(use.operator)
    values = runtime.values.get(use.operator, {})
    for name, value in use.attributes:
        if known is not None and name not in known:
            return f"ONNX Runtime {runtime.version} knows no attribute '{name}' of it"
        if name in values and value not in values[name]:
            known_values = " or ".join(map(str, values[name]))
            return f"ONNX Runtime {runtime.version} computes it with {name} of {known_values}, not {value}"
    most = len(runtime.variables.get(use.operator, use.types))
    if len(use.types) > most and use.operator not in runtime.variadic:
        return f"in ONNX Runtime {runtime.version} it has no input {most + 1}"
    return ""


def _mismatch(runtime: Runtime, use: Use, kernel: Kernel, opset: int) -> str:
    """A type that a kernel does not take."""
    for index, kind in enumerate(use.types):
        allowed = kernel.types.get(variable(use.operator, index, opset, runtime), ())
        if kind and allowed and kind not in allowed and not (kind == _WIDENED and "float" in allowed):
            return f"ONNX Runtime {runtime.version} has it for {' '.join(allowed)}, not for {kind}"
    return ""


def is_function(operator: str, opset: int) -> bool:
    """Whether ONNX defines an operator by others, of which a runtime makes it where it has no kernel."""
    if not onnx.defs.has(operator, opset, ""):
        return False
    schema = onnx.defs.get_schema(operator, opset)
    return any(getattr(schema, kind) for kind in _FUNCTIONS)


def variable(operator: str, index: int, opset: int, runtime: Runtime | None = None) -> str:
    """The type variable of an input, by the operator's schema; empty where there is none."""
    known = variables(operator, opset, (runtime or kernels.runtime(kernels.NEWEST)).version)
    if not known:
        return ""
    return known[min(index, len(known) - 1)]  # the last may be variadic


@functools.cache
def variables(operator: str, opset: int, version: str = kernels.NEWEST) -> tuple[str, ...]:
    """The type variables of all inputs."""
    if "::" not in operator and onnx.defs.has(operator, opset):
        return tuple(parameter.type_str for parameter in onnx.defs.get_schema(operator, opset).inputs)
    return kernels.runtime(version).variables.get(operator, ())


def type_name(value: ir.Value | None) -> str:
    """The type of a value, as target files spell it; empty if it is not known.

    >>> type_name(ir.Value(type=ir.TensorType(ir.DataType.INT8)))
    'int8'
    >>> type_name(ir.Value(type=ir.SequenceType(ir.TensorType(ir.DataType.FLOAT))))
    'seq(tensor(float))'
    """
    if value is None:
        return ""
    written = _written(value.type)
    if written.startswith("tensor("):
        return written.removeprefix("tensor(").removesuffix(")")
    return written


def _written(kind: ir.TypeProtocol | None) -> str:
    """A type as schemas write it; empty if it, or what it holds, is not known."""
    if isinstance(kind, ir.TensorType):
        return f"tensor({kind.dtype.name.lower()})"
    if not isinstance(kind, ir.SequenceType | ir.OptionalType):
        return ""
    inner = _written(kind.elem_type)
    if not inner:
        return ""
    if isinstance(kind, ir.SequenceType):
        return f"seq({inner})"
    return f"optional({inner})"
