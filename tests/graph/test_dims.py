"""Names of dimensions survive, and integers computed from them are known: each rule against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bct_onnx.graph import dims, shapes
from bct_onnx.graph.dims import arithmetic
from bct_onnx.graph.tensors import Array
from bct_onnx.runtime.session import run, session

SIZES = {"batch": 2, "sequence": 5, "past": 3}

SHAPES = {
    "Add": ("y = Add (x, m)", ("batch", "sequence", 8)),
    "Where": ("c = Greater (x, m) y = Where (c, x, m)", ("batch", "sequence", 8)),
    "MatMul": ("t = Transpose <perm = [0, 2, 1]> (x) y = MatMul (x, t)", ("batch", "sequence", "sequence")),
    "Transpose": ("y = Transpose (x)", (8, "sequence", "batch")),
    "Unsqueeze": ("y = Unsqueeze (x, one)", ("batch", 1, "sequence", 8)),
    "Squeeze": ("u = Unsqueeze (x, one) y = Squeeze (u, one)", ("batch", "sequence", 8)),
    "Gather rows": ("y = Gather (table, ids)", ("batch", "sequence", 6)),
    "Gather one": ("y = Gather <axis = 1> (x, zero)", ("batch", 8)),
    "Concat": ("y = Concat <axis = 1> (x, p)", ("batch", "past + sequence", 8)),
    "Slice off": ("c = Concat <axis = 1> (p, x) s = Shape <start = 1, end = 2> (p)"
                  " e = Shape <start = 1, end = 2> (c) y = Slice (c, nil, s, one)", ("batch", "past", 8)),
    "Slice a buffer": ("s = Shape <start = 1, end = 2> (x) y = Slice (table, nil, s, nil)", ("sequence", 6)),
    "Slice to the end": ("y = Slice (x, one, far, two)", ("batch", "sequence", 7)),
    "Split": ("y, w, z = Split <axis = -1, num_outputs = 3> (x)", ("batch", "sequence", 3)),
    "Split, the last": ("w, z, y = Split <axis = -1, num_outputs = 3> (x)", ("batch", "sequence", 2)),
    "Split in sizes": ("s = Constant <value_ints = [3, 5]> () z, y = Split <axis = 2> (x, s)",
                       ("batch", "sequence", 5)),
    "Expand": ("s = Shape (x) y = Expand (m, s)", ("batch", "sequence", 8)),
    "Reduce": ("y = ReduceMean <keepdims = 0> (x, one)", ("batch", 8)),
    "Reshape, copies": ("s = Constant <value_ints = [0, 0, 2, 4]> () y = Reshape (x, s)", ("batch", "sequence", 2, 4)),
    "Reshape, the rest": ("s = Constant <value_ints = [0, -1, 8]> () y = Reshape (x, s)", ("batch", "sequence", 8)),
    "Reshape, one rest of many": ("s = Constant <value_ints = [-1, 8]> () y = Reshape (x, s)", (None, 8)),
    "Range": ("s = Shape (x) e = Gather (s, unit) y = Range (zero, e, unit)", ("sequence",)),
    "Attention": ("y = Attention <q_num_heads = 2, kv_num_heads = 2> (x, p, p)", ("batch", "sequence", 8)),
    "LayerNormalization": ("y = LayerNormalization (x, m)", ("batch", "sequence", 8)),
}  # fmt: skip

VALUES = {
    "Shape": ("y = Shape (x)", ["batch", "sequence", 8]),
    "Shape of a part": ("y = Shape <start = -2, end = -1> (x)", ["sequence"]),
    "Gather": ("s = Shape (x) y = Gather (s, zero)", "batch"),
    "Gather and Unsqueeze": ("s = Shape (x) g = Gather (s, zero) y = Unsqueeze (g, nil)", ["batch"]),
    "Slice": ("s = Shape (x) y = Slice (s, one, far)", ["sequence", 8]),
    "Slice in steps": ("s = Shape (x) y = Slice (s, nil, far, nil, two)", ["batch", 8]),
    "Concat": ("s = Shape (x) y = Concat <axis = 0> (s, one)", ["batch", "sequence", 8, 1]),
    "Add": ("a = Shape <start = 1, end = 2> (x) b = Shape <start = 1, end = 2> (p) y = Add (a, b)",
            ["past + sequence"]),
    "Sub": ("c = Concat <axis = 1> (p, x) a = Shape <start = 1, end = 2> (c) b = Shape <start = 1, end = 2> (p)"
            " y = Sub (a, b)", ["sequence"]),
    "Div": ("a = Shape <start = 2> (x) y = Div (a, two)", [4]),
    "Mul": ("a = Shape (x) y = Mul (a, unit)", ["batch", "sequence", 8]),
    "Equal": ("a = Shape (x) n = Constant <value_int = -1> () y = Equal (a, n)", [False, False, False]),
    "Where": ("a = Shape (x) n = Constant <value_int = -1> () e = Equal (a, n) y = Where (e, one, a)",
              ["batch", "sequence", 8]),
    "ConstantOfShape": ("s = Shape (m) y = ConstantOfShape <value = int64[1] {7}> (s)", [7] * 8),
    "Cast": ("s = Shape (x) y = Cast <to = 6> (s)", ["batch", "sequence", 8]),
}  # fmt: skip


def parse(body: str) -> ir.Model:
    return ir.from_onnx_text(
        f"""<ir_version: 11, opset_import: ["" : 23]>
        g (float[batch,sequence,8] x, float[batch,past,8] p, int64[batch,sequence] ids) => (y)
        <float[8] m = {{1,1,1,1,1,1,1,1}}, float[7,6] table = {{{",".join("1" * 42)}}},
         int64 zero = {{0}}, int64 unit = {{1}}, int64[1] nil = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}},
         int64[1] far = {{9223372036854775807}}> {{ {body} }}"""
    )


def computed(model: ir.Model) -> Array:
    rng = np.random.default_rng(0)
    feeds: dict[str, Array] = {
        "x": rng.standard_normal((SIZES["batch"], SIZES["sequence"], 8), dtype=np.float32),
        "p": rng.standard_normal((SIZES["batch"], SIZES["past"], 8), dtype=np.float32),
        "ids": rng.integers(0, 7, (SIZES["batch"], SIZES["sequence"])),
    }
    return run(session(model, optimize="disabled"), feeds)[0]


def size(dim: dims.Dim) -> int:
    return dim if isinstance(dim, int) else sum(SIZES[part] for part in str(dim).split(" + "))


def tracked(model: ir.Model) -> dims.Tracker:
    """The tracker after all nodes; the output is an ordinary value meanwhile: declared ones are left as they are."""
    output = model.graph.outputs.pop()
    shapes.infer(model)
    tracker = dims.Tracker()
    for node in model.graph:
        tracker.visit(node)
    model.graph.outputs.append(output)
    return tracker


@pytest.mark.parametrize(("body", "expected"), SHAPES.values(), ids=SHAPES)
def test_shapes(body: str, expected: dims.Dims) -> None:
    model = parse(body)
    tracked(model)
    got = tuple(None if str(dim).startswith("unk__") else dim for dim in dims.of(model.graph.outputs[0]) or ())
    assert got == expected
    actual = computed(model).shape
    assert all(dim is None or size(dim) == n for dim, n in zip(expected, actual, strict=True))


@pytest.mark.parametrize(("body", "expected"), VALUES.values(), ids=VALUES)
def test_values(body: str, expected: list[dims.Dim]) -> None:
    model = parse(body)
    got = tracked(model).values[model.graph.outputs[0]]
    assert got.tolist() == expected
    np.testing.assert_array_equal(np.vectorize(size, otypes=[np.int64])(got), computed(model))


DIMS = st.one_of(st.integers(-4, 9), st.sampled_from(["a", "b", "a + b", "a + 2"]))
GIVEN = {"a": 3, "b": 7, "a + b": 10, "a + 2": 5}


def number(dim: dims.Dim) -> int | None:
    if isinstance(dim, str):
        return sum(GIVEN.get(term) or int(term) for term in dim.split(" + "))
    return dim


@pytest.mark.parametrize(
    ("symbolic", "plain"),
    [
        (arithmetic.add, lambda a, b: a + b),
        (arithmetic.subtract, lambda a, b: a - b),
        (arithmetic.multiply, lambda a, b: a * b),
        (arithmetic.divide, lambda a, b: int(a / b) if b else None),
        (arithmetic.equal, lambda a, b: a == b),
    ],
    ids=["add", "subtract", "multiply", "divide", "equal"],
)
@given(a=DIMS, b=DIMS)
def test_arithmetic_on_names_is_that_on_their_sizes(symbolic, plain, a, b) -> None:  # type: ignore[no-untyped-def]
    result = symbolic(a, b)
    if result is not None:
        assert number(result) == plain(number(a), number(b))


@given(st.lists(DIMS, max_size=4))
def test_sums_do_not_depend_on_the_order(terms: list[dims.Dim]) -> None:
    assert arithmetic.add(*terms) == arithmetic.add(*reversed(terms))


def test_a_declared_sum_is_the_computed_one() -> None:
    assert arithmetic.parse("sequence + past") == arithmetic.add("past", "sequence") == "past + sequence"


def test_two_names_may_be_any_two_sizes() -> None:
    assert dims.broadcast(("a",), ("b",)) == (None,)
    assert dims.broadcast(("a",), None) is None
    assert arithmetic.remaining(("a", "b", 8), (8,)) is None


def test_a_negative_size_is_not_known() -> None:
    """Damaged files declare such, and ONNX Runtime runs them on whatever size comes."""
    assert dims.of(ir.Value(name="mask", shape=ir.Shape(["batch", -(2**63), 4]))) == ("batch", None, 4)
