"""Graphs that nearly are what a pass looks for: the result is what ONNX Runtime makes of the source, fused or not."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from tests.passes.sketch import Draw, Sketch, assert_lifted


def norm(draw: Draw) -> str:
    """A normalization, or nearly one."""
    s = Sketch(draw)
    width, rank = s.one(1, 4, 4, "k"), s.one(2, 3, 3, 4)
    dims = [*["a", "b", "c"][: rank - 1], width]
    columns = 4 if width == "k" else int(width)
    axes = s.given(
        "int64", *s.one(("-1", 1), ("-1", 1), ("-1", 1), (str(rank - 1), 1), ("-2", 1), ("-2, -1", 2), ("0", 1))
    )
    centred = "x"
    if s.one(True, False):
        mean = s.op(f"ReduceMean (x, {axes})")
        centred = s.op(f"Sub (x, {mean})")
    squared = s.one(centred, centred, centred, "x")
    square = (
        s.op(f"Mul ({squared}, {squared})")
        if s.one(True, False)
        else s.op(f"Pow ({squared}, {s.given('float', s.one(2, 2, 3))})")
    )
    if s.one(True, True, True, False):
        variance = s.op(f"ReduceMean ({square}, {axes})")
    else:  # unbiased
        total = s.op(f"ReduceSum ({square}, {axes})")
        variance = s.op(f"Div ({total}, {s.given('float', max(columns - 1, 1))})")
    epsilon = s.given("float", s.one(1e-5, 0.1), *s.one((), (), (1,), (1, 1, 1, 1)))
    if s.one(True, True, False):
        root = s.op(f"Sqrt ({s.either('Add', variance, epsilon)})")
    else:
        root = s.either("Add", s.op(f"Sqrt ({variance})"), epsilon)
    y = (
        s.op(f"Div ({centred}, {root})")
        if s.one(True, False)
        else s.either("Mul", centred, s.op(f"Reciprocal ({root})"))
    )
    for op_type in ("Mul", "Add"):
        if s.one(True, True, False):
            c = columns
            shape = s.one(
                (c,),
                (c,),
                (c,),
                (1, c),
                (1, 1, c),
                (1, 1, 1, 1, c),
                (),
                (1,),
                (3, 1),
                (2, 1, 1),
                (c, 1),
                (2 * c,),
                (6,),
                (3, c),
            )
            y = s.either(op_type, y, s.constant(*shape))
    extra = [s.one(square, variance, root, centred)] if s.one(True, False, False, False) else []
    return s.text(f"float[{', '.join(map(str, dims))}] x", y, *[one for one in extra if one != "x"])


def activation(draw: Draw) -> str:
    """A GELU, SiLU or QuickGELU, or nearly one."""
    s = Sketch(draw)
    shape = s.one((), (), (1,), (1, 1), (1, 1, 1, 1), (3, 1), (4,))
    gate = s.one("x", "x", "x", "z")
    kind = s.one("gelu", "tanh", "sigmoid")
    if kind == "gelu":
        d = s.op(f"Div ({gate}, {s.given('float', s.one('1.4142135', '1.4142135', '1.5'))})")
        e = s.op(f"Erf ({d})")
        y = s.either(
            "Mul",
            "x",
            s.either("Add", e, s.given("float", ", ".join(["1.0"] * int(np.prod(shape, dtype=int))), *shape)),
        )
        y = s.either("Mul", y, s.given("float", s.one("0.5", "0.5", "0.25"), *s.one((), (1,), (1, 1, 1, 1))))
    elif kind == "sigmoid":
        a = s.given("float", ", ".join(["1.702"] * int(np.prod(shape, dtype=int))), *shape)
        scaled = s.either("Mul", gate, a) if s.one(True, False) else gate
        y = s.either("Mul", s.op(f"Sigmoid ({scaled})"), "x")
    else:
        cube = s.op(f"Pow ({gate}, {s.given('float', s.one(3, 3, 2))})")
        inner = s.either("Add", gate, s.either("Mul", cube, s.given("float", 0.044715)))
        t = s.op(f"Tanh ({s.either('Mul', inner, s.given('float', 0.7978845608))})")
        half = s.either("Mul", "x", s.given("float", 0.5, *s.one((), (1,), (1, 1, 1, 1))))
        y = s.either("Mul", half, s.either("Add", t, s.given("float", 1)))
    return s.text("float[a,b,4] x, float[a,b,4] z" if s.one(True, False) else "float[b,4] x, float[a,b,4] z", y)


def softmax(draw: Draw) -> str:
    """A softmax or its logarithm, or nearly one."""
    s = Sketch(draw)
    axis = s.one("-1", "-1", "1", "0", "-2")
    axes = s.given("int64", axis, 1)
    x = "x"
    if s.one(True, False):
        top = s.op(f"ReduceMax (x, {s.given('int64', s.one(axis, axis, '-1', '-2'), 1)})")
        x = s.op(f"Sub (x, {top})")
    exponential = s.op(f"Exp ({x})")
    keep = s.one(1, 1, 1, 0)
    total = s.op(f"ReduceSum <keepdims = {keep}> ({exponential}, {axes})")
    if s.one(True, False, False):
        total = s.either("Add", total, s.given("float", s.one(0, 1), *s.one((), (1,), (1, 1, 1, 1), (1, 4))))
    if s.one(True, True, False):
        y = s.op(f"Div ({s.one(exponential, exponential, 'x')}, {total})")
    else:
        y = s.op(f"Sub ({x}, {s.op(f'Log ({total})')})")
    return s.text(s.one("float[a,b,4] x", "float[a,4] x", "float[a,b,k] x", "float[b,b] x"), y)


def attention(draw: Draw) -> str:
    """An attention, or nearly one."""
    s = Sketch(draw)
    count = s.one(2, 2, "h")
    kv = s.one(count, count, count, 1)
    length = s.one("b", "k")
    dims = {"q": f"a,{count},b,4", "k": f"{s.one('a', 'a', 1)},{kv},{length},4", "v": f"a,{kv},{length},{s.one(4, 6)}"}
    inputs = [f"float[{shape}] {name}" for name, shape in dims.items()]
    q, k = "q", "k"
    if s.one(True, False):
        q = s.either("Mul", q, s.constant(*s.one((), (), (1,), (1, 1, 1, 1), (1, 2, 1, 1), (4,), (1, 1, 1, 1, 1))))
    t = s.op(f"Transpose <perm = {s.one('[0, 1, 3, 2]', '[0, 1, 3, 2]', '[0, 1, 3, 2]', '[0, 3, 1, 2]')}> ({k})")
    if s.one(True, False, False):
        t = s.either("Mul", t, s.constant(*s.one((), (1,), (4, 1))))
    scores = s.op(f"MatMul ({q}, {t})")
    if s.one(True, False):
        scores = s.one(
            lambda: s.either("Mul", scores, s.constant(*s.one((), (1,), (2, 1, 1)))),
            lambda: s.op(f"Div ({scores}, {s.constant()})"),
        )()
    for index in range(s.one(0, 0, 1, 1, 2)):
        shape = s.one(
            f"a,1,1,{length}",
            f"1,1,b,{length}",
            f"{length}",
            f"b,{length}",
            f"a,1,b,{length}",
            f"1,{count},b,{length}",
            "b,1",
            f"a,{count},1,1",
            f"1,{length}",
            "1",
            "a,1,1,1",
        )
        if s.one(True, False):
            inputs.append(f"float[{shape}] m{index}")
            scores = s.either("Add", scores, f"m{index}")
        else:
            inputs.append(f"bool[{shape}] m{index}")
            low = s.given("float", s.one("-3.4e38", "-3.4e38", "-100.0", "-1e9"))
            scores = s.op(
                f"Where (m{index}, {scores}, {low})" if s.one(True, False) else f"Where (m{index}, {low}, {scores})"
            )
    if s.one(True, False, False, False, False):
        scores = s.op(f"Tanh ({scores})")
    weights = s.op(f"Softmax <axis = {s.one(-1, -1, -1, 3, 2, 1)}> ({scores})")
    y = s.op(f"MatMul ({weights}, v)")
    if s.one(True, False, False):
        y = s.op(f"Transpose <perm = [0, 2, 1, 3]> ({y})")
    extra = [weights] if s.one(True, False, False, False, False) else []
    return s.text(", ".join(inputs), y, *extra)


def linear(draw: Draw) -> str:
    """A Gemm between two Reshape, or nearly what can be lifted."""
    s = Sketch(draw)
    leading = s.one(["a", "b"], ["a", "b"], ["b"], ["a", 3])
    shape = s.op("Shape (x)")
    flat = s.op(f"Reshape (x, {s.given('int64', s.one('-1, 4', '-1, 4', '-1, 2', '-1, 8'), 2)})")
    columns = s.one(4, 6)
    turned = s.one(0, 1)
    weight = s.constant(*((columns, 4) if turned else (4, columns)))
    bias = s.one(None, (columns,), (1, columns), (1,), (), (1, 1), (6, columns), (6, 1))
    beta = s.one(1, 1, 1, 0.5)
    operands = [flat, weight] if bias is None else [flat, weight, s.constant(*bias)]
    gemm = s.op(f"Gemm <transB = {turned}, beta = {float(beta)}> ({', '.join(operands)})")
    order = s.one([0, 1], [0, 1], [1, 0], [0, 0])
    parts = [s.op(f"Gather ({shape}, {s.given('int64', axis, 1)})") for axis in order[: len(leading)]]
    ends = s.one([str(columns)], [str(columns)], ["-1"], ["2", str(columns // 2)])
    target = s.op(f"Concat <axis = 0> ({', '.join([*parts, *(s.given('int64', end, 1) for end in ends)])})")
    y = s.op(f"Reshape ({gemm}, {target})")
    return s.text(f"float[{', '.join(map(str, leading))}, {s.one('4', '4', '2, 2')}] x", y, *s.one([], [], [gemm]))


@examples(20)
@given(st.composite(norm)())
def test_norms(text: str) -> None:
    assert_lifted(text)


@examples(20)
@given(st.composite(activation)())
def test_activations(text: str) -> None:
    assert_lifted(text)


@examples(20)
@given(st.composite(softmax)())
def test_softmaxes(text: str) -> None:
    assert_lifted(text)


@examples(20)
@given(st.composite(attention)())
def test_attentions(text: str) -> None:
    assert_lifted(text)


@examples(20)
@given(st.composite(linear)())
def test_linear_layers(text: str) -> None:
    assert_lifted(text)
