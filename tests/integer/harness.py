"""What every kernel must pass: three engines agree, nothing overflows, the bound holds, wrong constants are noticed."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from bct_onnx.errors import TargetError
from bct_onnx.integer import Kernel, float_values_depending_on_codes, model_of
from bct_onnx.runtime.session import Optimize, run, session

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]

LEVELS: tuple[Optimize, ...] = ("disabled", "basic", "extended", "all")
SCALES = (1e-3, 0.004, 0.01, 1 / 32, 0.05, 0.1, 0.3, 1.0)
CODE_TYPES = (np.uint8, np.int8)
INT32 = np.iinfo(np.int32)


def every_code(dtype: Any, rows: int = 1) -> Array:
    """All 256 codes, once per row: [rows, 256]."""
    low = np.iinfo(dtype).min
    return np.tile(np.arange(low, low + 256).astype(dtype), (rows, 1))


def random_codes(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> Array:
    """Seeded codes, all equally likely."""
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)


def scale(*values: float) -> Array:
    """A scalar float32, or for several values one per row: [rows, 1]."""
    found = np.array(values, np.float32)
    return found.reshape(()) if len(values) == 1 else found[:, None]


def unary(x: Array, x_scale: Array, x_zero_point: int, y_scale: Array, y_zero_point: int) -> dict[str, Array]:
    """Feeds of a kernel of one tensor of codes."""
    return {
        "x": x,
        "x_scale": x_scale,
        "x_zero_point": np.array(x_zero_point, x.dtype),
        "y_scale": y_scale,
        "y_zero_point": np.array(y_zero_point, np.uint8),
    }


def refer(kernel: Kernel, feeds: Feeds) -> Array:
    """The numpy reference; warnings of numpy (overflow, division by zero) are errors."""
    with np.errstate(all="raise"):
        found = kernel.reference(*(feeds[name] for name in kernel.inputs))
    assert found.dtype == np.uint8
    return found


_ALONE: dict[tuple[Any, np.dtype[Any]], onnx.ModelProto] = {}
"""Kernels as models without shapes, by function and type of codes: to write one takes as long as all that runs it."""


def model(kernel: Kernel, feeds: Feeds, static: bool = False) -> onnx.ModelProto:
    """The kernel as a model for the types of ``feeds``; ``static`` makes all but the codes initializers."""
    codes = feeds[kernel.codes[0]]
    key = (kernel.function, codes.dtype)
    if key not in _ALONE:
        _ALONE[key] = ir.to_proto(model_of(kernel, ir.DataType.from_numpy(codes.dtype)))
    proto = onnx.ModelProto()
    proto.CopyFrom(_ALONE[key])
    for value in proto.graph.input:
        _shape(value, feeds[value.name].shape)
    if proto.graph.output[0].type.tensor_type.elem_type:  # else it comes from an operator of ONNX Runtime's own
        _shape(proto.graph.output[0], refer(kernel, feeds).shape)
    if static:
        fixed = [name for name in kernel.inputs if name not in kernel.codes]
        kept = [value for value in proto.graph.input if value.name not in fixed]
        del proto.graph.input[:]
        proto.graph.input.extend(kept)
        proto.graph.initializer.extend(numpy_helper.from_array(feeds[name], name) for name in fixed)
    return proto


def _shape(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    """Let a value of known type have a shape too."""
    value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shape))


class Evaluators:
    """A valid model in the reference evaluator, as it is and with wide integers."""

    def __init__(self, serialized: bytes) -> None:
        proto = onnx.load_from_string(serialized)
        onnx.checker.check_model(proto, full_check=True)
        self._evaluator = ReferenceEvaluator(proto)
        wide = onnx.inliner.inline_local_functions(proto)
        self._narrow = _widen(wide.graph)
        self._shadow: Any = ReferenceEvaluator(wide)

    def run(self, feeds: Feeds) -> Array:
        """The output."""
        outputs: Any = self._evaluator.run(None, dict(feeds))
        return np.asarray(outputs[0])

    def shadow(self, feeds: Feeds) -> Array:
        """The output with every int32 and uint32 widened to 64 bits; asserts that none of them needed it."""
        given = {name: x.astype(np.int64) if x.dtype == np.int32 else x for name, x in feeds.items()}
        values: Any = self._shadow.run(None, given, intermediate=True)
        for name in self._narrow:
            value = np.asarray(values[name])
            if value.size and value.dtype in (np.int64, np.uint64):
                low, high = (0, 2**32 - 1) if value.dtype == np.uint64 else (INT32.min, INT32.max)
                assert low <= value.min() and value.max() <= high, (
                    f"{name} leaves 32 bits: {value.min()}..{value.max()}"
                )
        return np.asarray(values["y"])


_evaluators = functools.lru_cache(maxsize=8)(Evaluators)
_session = functools.lru_cache(maxsize=32)(session)
"""Each is opened once for neighbouring tests: scales are inputs, so one model serves many of them."""


def evaluate(proto: onnx.ModelProto, feeds: Feeds, optimize: Optimize = "all") -> Array:
    """The output in ONNX Runtime."""
    return run(_session(proto.SerializeToString(deterministic=True), optimize=optimize), feeds)[0]


def agree(kernel: Kernel, feeds: Feeds, static: bool = False, levels: Iterable[Optimize] = LEVELS) -> Array:
    """numpy = ONNX reference evaluator = ONNX Runtime at ``levels``, bit for bit; nothing leaves int32."""
    want = refer(kernel, feeds)
    proto = model(kernel, feeds, static)
    evaluators = _evaluators(proto.SerializeToString(deterministic=True))
    given = {value.name: feeds[value.name] for value in proto.graph.input}
    np.testing.assert_array_equal(evaluators.run(given), want, err_msg="reference evaluator")
    for level in levels:
        np.testing.assert_array_equal(evaluate(proto, given, level), want, err_msg=f"ONNX Runtime, {level}")
    np.testing.assert_array_equal(evaluators.shadow(given), want, err_msg="int64")
    return want


def within_bound(kernel: Kernel, feeds: Feeds, y: Array, slack: float = 1e-6) -> float:
    """Asserts the stated bound wherever the output codes can represent the exact value; returns the greatest error.

    ``slack`` (relative) is for float32 scales in a float64 formula.
    """
    exact, error = errors(kernel, feeds, y)
    assert kernel.bound is not None
    scales = [np.float64(feeds[name]) for name in kernel.inputs if name.endswith("scale")]
    bound = np.broadcast_to(kernel.bound(*scales), error.shape) * (1 + slack)
    worst = np.unravel_index(np.argmax(error - bound), error.shape)
    assert np.all(error <= bound), (
        f"error {error[worst]} > bound {bound[worst]} where the exact value is {exact[worst]}"
    )
    return float(error.max())


def errors(kernel: Kernel, feeds: Feeds, y: Array) -> tuple[Array, Array]:
    """The exact real values, cut to what the output codes can represent, and how far ``y`` is from them."""
    assert kernel.exact is not None
    exact = kernel.exact(*(_real(feeds, name, feeds[name]) for name in kernel.codes))
    low, high = (_real(feeds, "y", np.array(code, np.uint8)) for code in (0, 255))
    clipped = np.clip(exact, low, high)
    return clipped, np.abs(_real(feeds, "y", y) - clipped)


def _real(feeds: Feeds, name: str, codes: Array) -> Array:
    zero_point = feeds[f"{name}_zero_point"].astype(np.float64)
    found: Array = feeds[f"{name}_scale"].astype(np.float64) * (codes.astype(np.float64) - zero_point)
    return found


def integer(kernel: Kernel) -> None:
    """The proof for both types of codes, and that it is not empty: a float body would be noticed."""
    for codes in (ir.DataType.UINT8, ir.DataType.INT8):
        assert float_values_depending_on_codes(kernel, codes) == []


ZERO_DIVISOR = pytest.mark.since("1.25", "older ones end the process where an integer is divided by zero")
"""Of tests in which a wrong constant makes a divisor zero; the right ones make none."""


def wrong_constants_are_noticed(kernel: Kernel, cases: Iterable[Feeds], same: Iterable[str] = ()) -> None:
    """Every single constant of the function and its callees, made larger or smaller, changes some result of ``cases``.

    Limits that only keep absurd scales from overflowing need a case with such scales. ``same`` names constants
    (`<function>/<value>`) that may be changed without effect, each for a reason.
    """
    wanted = [(model(kernel, feeds), feeds, refer(kernel, feeds)) for feeds in cases]
    unnoticed = []
    for name, place in _constants(kernel):
        if not any(
            _differs(_mutated(proto, place, factor), feeds, want)
            for proto, feeds, want in wanted
            for factor in (1.25, 0.125)
        ):
            unnoticed.append(name)
    assert sorted(unnoticed) == sorted(same), unnoticed


def _constants(kernel: Kernel) -> Iterator[tuple[str, tuple[int, int]]]:
    """Name and place (function, node) of every constant."""
    for f, function in enumerate(ir.to_proto(model_of(kernel)).functions):
        for n, node in enumerate(function.node):
            if node.op_type == "Constant":
                yield node.name, (f, n)


def _mutated(original: onnx.ModelProto, place: tuple[int, int], factor: float) -> onnx.ModelProto:
    function, node = place
    proto = onnx.ModelProto()
    proto.CopyFrom(original)
    tensor = proto.functions[function].node[node].attribute[0].t
    value = numpy_helper.to_array(tensor)
    other = value * factor if value.dtype.kind == "f" and np.all(value) else np.floor(value * factor) + (factor > 1)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(other, value.dtype)))
    return proto


def _differs(proto: onnx.ModelProto, feeds: Feeds, want: Array) -> bool:
    """Whether the result is another one, or none (an integer division by zero)."""
    try:
        return not np.array_equal(evaluate(proto, feeds, "disabled"), want)
    except TargetError:
        return True


_WIDER = {
    onnx.TensorProto.INT32: onnx.TensorProto.INT64,
    onnx.TensorProto.UINT32: onnx.TensorProto.UINT64,
}


def _widen(graph: onnx.GraphProto) -> list[str]:
    """Replace 32-bit integer types by 64-bit ones, in place; returns the names of all values of the nodes."""
    names = []
    for node in list(graph.node):
        names.extend(node.output)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to":
                attribute.i = _WIDER.get(attribute.i, attribute.i)
            elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type in _WIDER:
                wide = np.int64 if attribute.t.data_type == onnx.TensorProto.INT32 else np.uint64
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(wide)))
        if node.op_type in ("MatMulInteger", "ConvInteger"):
            _cast_output(graph, node)
    return names


def _cast_output(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Widen what an operator that always gives int32 gives (its int32 sums cannot be shadowed: bound their length)."""
    name = node.output[0]
    node.output[0] = f"{name}_narrow"
    place = list(graph.node).index(node) + 1
    graph.node.insert(place, onnx.helper.make_node("Cast", [node.output[0]], [name], to=onnx.TensorProto.INT64))
