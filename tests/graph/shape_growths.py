"""How a program of shape arithmetic grows: one function for each operator that is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from hypothesis import strategies as st

from bct_onnx.graph.tensors import Array
from tests.graph.shape_programs import EXTREME, INTEGERS, SIZINGS, SMALL, Draw, Program


def _integers(draw: Draw, program: Program, like: ir.Value | None = None, rank: int | None = None) -> ir.Value:
    """A constant of rank 0 to 2, of the type of another value."""
    dtype = program.known[like][0].dtype if like is not None else draw(st.sampled_from(INTEGERS)).numpy()
    shape = draw(st.sampled_from([(), (1,), (2,), (3,), (1, 1), (2, 1), (1, 3), (2, 2)]))
    shape = shape if rank is None else shape[:rank] + (1,) * (rank - len(shape))
    numbers = [draw(st.one_of(SMALL, SMALL, SMALL, EXTREME)) for _ in range(math.prod(shape))]
    with np.errstate(all="ignore"):
        return program.constant(
            np.array(numbers, object).astype(object).reshape(shape) if False else _wrapped(numbers, dtype, shape)
        )


def _wrapped(numbers: list[int], dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    if dtype.kind not in "iu":
        return np.array([float(n % 7) for n in numbers]).astype(dtype).reshape(shape)
    bits = 8 * dtype.itemsize
    unsigned = np.array([n % 2**bits for n in numbers], np.uint64).astype(f"u{dtype.itemsize}")
    return unsigned.view(dtype).reshape(shape)


def _operand(draw: Draw, program: Program, like: ir.Value) -> ir.Value:
    """A constant, or a value, of the same type."""
    kind = program.known[like][0].dtype
    fits = [value for value, (array, *_) in program.known.items() if array.dtype == kind]
    return draw(st.sampled_from(fits)) if draw(st.booleans()) else _integers(draw, program, like)


def _binary(op_type: str, **options: list[int]) -> Callable[[Draw, Program], None]:
    def grow(draw: Draw, program: Program) -> None:
        a = program.pick(draw, "iuf" if op_type in ("Add", "Sub", "Mul") else "iu")
        pair = [a, _operand(draw, program, a)]
        attributes = {key: draw(st.sampled_from(values)) for key, values in options.items()}
        program.add(op_type, pair if draw(st.booleans()) else pair[::-1], **attributes)

    return grow


def _unary(op_type: str, kinds: str) -> Callable[[Draw, Program], None]:
    return lambda draw, program: program.add(op_type, [program.pick(draw, kinds)])


def _logical(op_type: str) -> Callable[[Draw, Program], None]:
    return lambda draw, program: program.add(op_type, [program.pick(draw, "b"), program.pick(draw, "b")])


def _shape(draw: Draw, program: Program) -> None:
    attributes = {name: draw(st.integers(-3, 3)) for name in ("start", "end") if draw(st.booleans())}
    program.add("Shape", [program.pick(draw, "iubf")], **attributes)


def _gather(draw: Draw, program: Program) -> None:
    data = program.pick(draw, "iubf", (1, 2, 3))
    indices = draw(st.sampled_from([0, 1, -1, [0], [1, 0], [[0]], [[0, 1], [-1, 0]], [[[0]]]]))
    dtype = draw(st.sampled_from([np.int64, np.int32]))
    program.add("Gather", [data, program.constant(np.array(indices, dtype))], axis=draw(st.integers(-2, 2)))


def _slice(draw: Draw, program: Program) -> None:
    data = program.pick(draw, "iubf", (1, 2, 3))
    rank = program.known[data][0].ndim
    number = st.sampled_from([0, 0, 1, 2, -1, -2, 3, 9, 2**31 - 1, 2**63 - 1, -(2**63)])
    count = draw(st.integers(1, rank))
    bounds = [program.ints(*(draw(number) for _ in range(count))) for _ in range(2)]
    if count == 1 and draw(st.booleans()):
        bounds[draw(st.integers(0, 1))] = program.pick(draw, "i", (1,))
    axes = draw(st.permutations([axis - draw(st.sampled_from([0, rank])) for axis in range(rank)]))[:count]
    steps = [draw(st.sampled_from([1, 1, 1, 2, -1, -2])) for _ in range(count)]
    backwards = [step < 0 for step in steps]  # and far forwards: ONNX says nothing is taken, ONNX Runtime takes all
    far = any((end >= 2**31 - 1).any() for end in program.known[bounds[1]])
    if _within(program, data, axes, bounds[1]) and not (far and any(backwards)):
        program.add("Slice", [data, *bounds, program.ints(*axes), program.ints(*steps)])


def _within(program: Program, data: ir.Value, axes: list[int], end: ir.Value) -> bool:
    """Not what the tracker takes for granted to be otherwise: a buffer of fixed size shorter than a named end."""
    ends = program.known[end]
    if all(np.array_equal(ends[0], other) for other in ends) or len(axes) > 1:
        return True
    return all(
        int(end.reshape(-1)[0]) <= array.shape[axes[0]]
        for end, array in zip(ends, program.known[data], strict=True)
        if end.size
    )


def _unsqueeze(draw: Draw, program: Program) -> None:
    data = program.pick(draw, "iubf", (0, 1, 2))
    program.add("Unsqueeze", [data, program.ints(*draw(st.sampled_from([[0], [1], [-1], [0, 1], [0, 2], [-1, 0]])))])


def _squeeze(draw: Draw, program: Program) -> None:
    data = program.pick(draw, "iubf", (1, 2, 3, 4))
    axes = draw(st.sampled_from([None, [0], [1], [-1], [0, 1], [-2]]))
    program.add("Squeeze", [data] if axes is None else [data, program.ints(*axes)])


def _concat(draw: Draw, program: Program) -> None:
    first = program.pick(draw, "iubf", (1, 2, 3))
    array = program.known[first][0]
    fits = [v for v, (other, *_) in program.known.items() if other.dtype == array.dtype and other.ndim == array.ndim]
    others = draw(st.lists(st.sampled_from(fits), max_size=2))
    if draw(st.booleans()) and array.dtype.kind in "iu":
        others.append(_integers(draw, program, first, array.ndim))
    program.add("Concat", draw(st.permutations([first, *others])), axis=draw(st.integers(-array.ndim, array.ndim - 1)))


def _cast(draw: Draw, program: Program) -> None:
    to = draw(st.sampled_from([*INTEGERS, ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.FLOAT, ir.DataType.DOUBLE]))
    program.add("Cast", [program.pick(draw, "iub")], to=to.value)


def _where(draw: Draw, program: Program) -> None:
    yes = program.pick(draw)
    condition = program.pick(draw, "b")
    if program.known[condition][0].dtype == bool:
        program.add("Where", [condition, yes, _operand(draw, program, yes)])


def _range(draw: Draw, program: Program) -> None:
    ends = [
        program.pick(draw, "i", (0,)) if draw(st.booleans()) else program.constant(np.array(draw(SMALL)))
        for _ in range(2)
    ]
    step = program.constant(np.array(draw(st.sampled_from([1, 1, 1, 2, -1, -3]))))
    if all(value in program.known and program.known[value][0].dtype == np.int64 for value in ends):
        program.add("Range", [*ends, step])


def _filled(draw: Draw, program: Program) -> None:
    fill = draw(st.sampled_from([np.array([7]), np.array([True]), np.array([-1], np.int32), np.array([200], np.uint8)]))
    attributes: dict[str, Any] = {"value": ir.Tensor(fill)} if draw(st.booleans()) else {}
    program.add("ConstantOfShape", [program.pick(draw, "i", (1,))], **attributes)


def _expand(draw: Draw, program: Program) -> None:
    program.add("Expand", [program.pick(draw, "iubf"), program.pick(draw, "i", (1,))])


def _reshape(draw: Draw, program: Program) -> None:
    data = program.pick(draw, "iubf")
    targets = st.sampled_from(
        [[-1], [0, -1], [-1, 1], [1, -1], [2, -1], [0], [], [1], [0, 0, -1], [-1, 4], [0, 0, 2, 2]]
    )
    target = program.pick(draw, "i", (1,)) if draw(st.booleans()) else program.ints(*draw(targets))
    allowzero = draw(st.sampled_from([0, 0, 1]))
    at_sizes = list(program.known[target])
    if len({shape.shape for shape in at_sizes}) == 1 and at_sizes[0].ndim == 1:
        zeros = np.stack(at_sizes) == 0
        if allowzero or not (zeros.any(0) & ~zeros.all(0)).any():  # a named 0 is what the tracker leaves out
            program.add("Reshape", [data, target], allowzero=allowzero)


def _transpose(draw: Draw, program: Program) -> None:
    data = program.pick(draw, "iubf", (1, 2, 3, 4))
    perm = draw(st.permutations(range(program.known[data][0].ndim)))
    attributes: dict[str, Any] = {"perm": list(perm)} if draw(st.booleans()) else {}
    program.add("Transpose", [data], **attributes)


def _tile(draw: Draw, program: Program) -> None:
    data = program.pick(draw, "iuf", (1, 2))
    program.add("Tile", [data, program.ints(*draw(st.sampled_from([[1], [2], [1, 2], [2, 1], [3, 2]])))])


def _reduce(draw: Draw, program: Program) -> None:
    data = program.pick(draw, "if", (1, 2, 3))
    axes = draw(st.sampled_from([None, [0], [-1], [1], [0, 1], []]))
    inputs = [data] if axes is None else [data, program.ints(*axes)]
    op_type = draw(st.sampled_from(["ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean"]))
    program.add(op_type, inputs, keepdims=draw(st.integers(0, 1)), noop_with_empty_axes=draw(st.integers(0, 1)))


def _cumsum(draw: Draw, program: Program) -> None:
    axis = program.constant(np.array(draw(st.integers(-1, 1))))
    program.add("CumSum", [program.pick(draw, "if", (1, 2)), axis], exclusive=draw(st.integers(0, 1)))


def _scatter(draw: Draw, program: Program) -> None:
    data = program.pick(draw, "i", (1,))
    program.add("ScatterND", [data, program.constant(np.array([[0]])), _integers(draw, program, data, 1)])


def _trilu(draw: Draw, program: Program) -> None:
    program.add("Trilu", [program.pick(draw, "if", (2, 3))], upper=draw(st.integers(0, 1)))


def _split(draw: Draw, program: Program) -> None:
    program.add("Split", [program.pick(draw, "iuf", (1, 2))], 2, num_outputs=2, axis=draw(st.sampled_from([0, -1])))


def _matmul(draw: Draw, program: Program) -> None:
    program.add("MatMul", [program.pick(draw, "f", (1, 2, 3)), program.pick(draw, "f", (1, 2, 3))])


GROWTHS: dict[str, Callable[[Draw, Program], None]] = {
    **{name: _binary(name) for name in ("Add", "Sub", "Mul", "Div", "Min", "Max", "Pow")},
    **{name: _binary(name) for name in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")},
    **{name: _logical(name) for name in ("And", "Or", "Xor")},
    **{name: _unary(name, "if") for name in ("Neg", "Abs", "Sign")},
    "Mod": _binary("Mod", fmod=[0, 1]),
    "Not": _unary("Not", "b"),
    "Size": _unary("Size", "iubf"),
    "Identity": _unary("Identity", "iubf"),
    "NonZero": lambda draw, program: program.add("NonZero", [program.pick(draw, "iub", (1, 2))]),
    "Softmax": _unary("Softmax", "f"),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "CumSum": _cumsum,
    "Expand": _expand,
    "Gather": _gather,
    "MatMul": _matmul,
    "Range": _range,
    "Reduce": _reduce,
    "Reshape": _reshape,
    "ScatterND": _scatter,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}


@st.composite
def programs(draw: Draw) -> Program:
    """A program of up to a dozen nodes over three inputs, after a ``Shape`` of each."""
    declared: list[tuple[str, list[int | str], ir.DataType]] = [
        ("x", ["a", "b", 4], ir.DataType.FLOAT),
        ("w", ["c", 1], ir.DataType.FLOAT),
        ("t", ["a + b"], ir.DataType.INT64),
    ]
    inputs = [ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(dims)) for name, dims, dtype in declared]
    program = Program(inputs)
    for value, (_, dims, dtype) in zip(inputs, declared, strict=True):
        shapes = [tuple(size_of(dim, sizing) for dim in dims) for sizing in SIZINGS]
        program.known[value] = [
            (np.arange(math.prod(shape)).reshape(shape) % 5 - 1).astype(dtype.numpy()) for shape in shapes
        ]
    for value in draw(st.permutations(inputs)):
        program.add("Shape", [value])
    for name in draw(st.lists(st.sampled_from(sorted(GROWTHS)), min_size=1, max_size=12)):
        GROWTHS[name](draw, program)
    return program


def size_of(dim: int | str, sizing: dict[str, int]) -> int:
    """A size with the names replaced."""
    return (
        dim
        if isinstance(dim, int)
        else sum(sizing.get(term) or int(term if term.isdecimal() else 0) for term in dim.split(" + "))
    )
