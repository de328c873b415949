"""Which numbers a value may hold: the masks of real exports are proven, biases that look like masks are not."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bct_onnx import registry
from bct_onnx.graph import shapes
from bct_onnx.graph.load import load
from bct_onnx.graph.possible import is_mask, possible_values
from bct_onnx.graph.tensors import Array
from bct_onnx.runtime.session import run, session
from tests.graph import handmade

LOW = float(np.finfo(np.float32).min)
INPUTS = "int64[b,s] attention_mask, bool[b,s] seen, float[b,s] x, int64[b,s] input_ids, float[1] scores_mask"
CONSTANTS = (
    "int64[2] axes = {1, 2}, int64[1] axis = {1}, int64[2] flat = {-1, 1}, int64[1] zero_axis = {0}, "
    "int64[1] one_more = {1}, int64[2] sizes = {3, 4}, int64[1] begin = {0}, int64[1] end = {2}, "
    "float one = {1.0}, float zero = {0.0}, float low = {-3.4028235e38}, float low16 = {-65504.0}, "
    "float infinite = {-inf}, float half = {-0.5}, int64 izero = {0}, int64 length = {5}, int64 istart = {0}, "
    "int64 istep = {1}, int64[4] pads = {0, 0, 0, 1}"
)


def value(body: str, **arrays: Array) -> ir.Value:
    """The value ``y`` of a graph with inputs and constants as masks are made of."""
    text = f'<ir_version: 10, opset_import: ["": 23]> g ({INPUTS}) => (y) <{CONSTANTS}> {{ {body} }}'
    model = ir.from_proto(handmade.model(text, **arrays))
    shapes.infer(model)
    return model.graph.outputs[0]


FLOAT_MASK = "u = Unsqueeze (attention_mask, axes)  f = Cast <to = 1> (u)  n = Sub (one, f) "
RANGE = "positions = Range (istart, length, istep)  column = Reshape (positions, flat) "

MASKS = {
    "BERT, eager": FLOAT_MASK + "y = Mul (n, low)",
    "BERT, eager, above the lowest number": FLOAT_MASK + "m = Mul (n, low)  y = Max (m, low16)",
    "BERT, SDPA: the test is the number itself": FLOAT_MASK + "t = Cast <to = 9> (n)  y = Where (t, low, n)",
    "BERT, SDPA, legacy: cast twice": FLOAT_MASK
    + "t = Cast <to = 9> (n)  tt = Cast <to = 9> (t)  y = Where (tt, low, n)",
    "the same by Equal and Not": FLOAT_MASK + "e = Equal (n, zero)  t = Not (e)  y = Where (t, low, n)",
    "GPT-2, causal and padding": RANGE
    + """c = LessOrEqual (positions, column)  p = Cast <to = 9> (attention_mask)  rows = Unsqueeze (p, axis)
        a = And (c, rows)  y = Where (a, zero, low)""",
    "GPT-2, a stored triangle": "t = Slice (triangle, begin, end)  y = Where (t, zero, low)",
    "two masks, one of -inf": "a = Where (seen, zero, low)  b = Where (seen, zero, infinite)  y = Add (a, b)",
    "Llama, upper triangle times a comparison": RANGE
    + """full = ConstantOfShape <value = float[1] {-3.4028235e38}> (sizes)  t = Trilu <upper = 1> (full, one_more)
        g = Greater (column, izero)  m = Cast <to = 1> (g)  y = Mul (t, m)""",
    "moved about": """f = Where (seen, zero, low)  t = Transpose <perm = [1, 0]> (f)  i = Gather (t, izero)
        e = Expand (i, sizes)  c = Concat <axis = 0> (e, e)  y = Pad (c, pads, zero)""",
    "float16": FLOAT_MASK + "h = Cast <to = 10> (n)  l = Cast <to = 10> (low16)  m = Mul (h, l)  y = Cast <to = 1> (m)",
    "boolean": "y = And (seen, seen)",
}
TRIANGLE = np.tril(np.ones((4, 4), bool))

BIASES = {
    "ALiBi": RANGE + "f = Cast <to = 1> (positions)  y = Mul (f, half)",
    "relative positions": "y = Gather (table, input_ids)",
    "a few steps of a bias": "y = Where (seen, zero, half)",
    "a mask on top of a bias": "m = Where (seen, zero, low)  b = Gather (table, input_ids)  y = Add (m, b)",
    "attention_mask itself": "y = Cast <to = 1> (attention_mask)",
    "a float input, whatever its name": "y = Identity (scores_mask)",
    "positions": "y = Cast <to = 1> (input_ids)",
    "NaN": "a = Where (seen, zero, infinite)  f = Cast <to = 1> (seen)  y = Mul (a, f)",
    "an operator that masks are not made of": "m = Where (seen, zero, low)  y = Softmax (m)",
    "another test": FLOAT_MASK + "t = Cast <to = 9> (attention_mask)  y = Where (t, low, one)",
}
TABLE = np.random.default_rng(0).normal(size=(32, 1)).astype(np.float32)


def arrays(body: str) -> dict[str, Array]:
    return {name: data for name, data in (("triangle", TRIANGLE), ("table", TABLE)) if f"({name}," in body}


@pytest.mark.parametrize("body", MASKS.values(), ids=MASKS)
def test_a_mask_is_proven(body: str) -> None:
    assert is_mask(value(body, **arrays(body)))


@pytest.mark.parametrize("body", BIASES.values(), ids=BIASES)
def test_anything_else_is_not(body: str) -> None:
    assert not is_mask(value(body, **arrays(body)))


def test_what_is_known_is_told_exactly() -> None:
    assert possible_values(value(MASKS["BERT, SDPA, legacy: cast twice"])) == frozenset({0.0, LOW})
    assert possible_values(value(MASKS["two masks, one of -inf"])) == frozenset({0.0, LOW, -math.inf})
    assert possible_values(value(BIASES["attention_mask itself"])) == frozenset({0.0, 1.0})
    for name in ("ALiBi", "relative positions", "a float input, whatever its name", "positions", "NaN"):
        assert possible_values(value(BIASES[name], **arrays(BIASES[name]))) is None


def test_sums_overflow_in_their_own_type() -> None:
    body = "a = Where (seen, zero, low)  y = Add (a, a)"
    assert possible_values(value(body)) == frozenset({0.0, LOW, -math.inf})  # each operand by itself
    assert possible_values(value("a = Where (seen, zero, low)  y = Cast <to = 10> (a)")) == frozenset({0.0, -math.inf})
    assert possible_values(value("a = Where (seen, zero, low)  y = Cast <to = 6> (a)")) is None


def test_many_numbers_are_given_up() -> None:
    few, many = np.arange(16, dtype=np.float32), np.arange(17, dtype=np.float32)
    assert possible_values(value("y = Identity (c)", c=few)) == frozenset(few.tolist())
    assert possible_values(value("y = Identity (c)", c=many)) is None
    assert possible_values(value("a = Mul (c, c)  y = Add (a, c)", c=few)) is None
    assert possible_values(value("y = Identity (c)", c=np.array([2**53 + 1]))) is None
    assert possible_values(value("y = Identity (c)", c=np.array([0, np.nan], np.float32))) is None


def test_a_chain_without_end_is_given_up() -> None:
    chain = " ".join(f"v{i + 1} = Neg (v{i})" for i in range(2000))
    assert possible_values(value(f"v0 = Where (seen, zero, low)  {chain}  y = Neg (v2000)")) is None


OPERATORS = ["Add", "Sub", "Mul", "Max", "Min"]


@given(
    first=st.lists(st.sampled_from([0.0, 1.0, -1.0, LOW, -1e4, 0.5]), min_size=1, max_size=4),
    second=st.lists(st.sampled_from([0.0, 1.0, -2.0, LOW, 3.0]), min_size=1, max_size=4),
    operator=st.sampled_from(OPERATORS),
    test=st.sampled_from(["Cast <to = 9> (v)", "Not (w)", "Equal (v, zero)"]),
)
def test_no_number_that_the_model_computes_is_missing(
    first: list[float], second: list[float], operator: str, test: str
) -> None:
    """Every pair of numbers goes through an operator and a choice in ONNX Runtime."""
    text = f"""<ir_version: 10, opset_import: ["": 23]> g () => (float[n,m] y, float[n,m] z)
        <float zero = {{0.0}}> {{ v = {operator} (a, b)  w = Cast <to = 9> (v)  t = {test}  y = Where (t, a, v)
        z = Where (t, v, b) }}"""
    columns, rows = np.array(first, np.float32).reshape(-1, 1), np.array(second, np.float32).reshape(1, -1)
    model = ir.from_proto(handmade.model(text, a=columns, b=rows))
    shapes.infer(model)
    for output, data in zip(model.graph.outputs, run(session(model, optimize="disabled"), {}), strict=True):
        values = possible_values(output)
        assert values is not None and set(data.ravel().astype(float).tolist()) <= values


@pytest.mark.export
@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize("exporter", ["dynamo", "optimum"])
@pytest.mark.parametrize("attention", ["eager", "default"])
def test_every_mask_of_a_real_export_is_proven(
    exported_small: Callable[..., Path], family: str, exporter: str, attention: str
) -> None:
    model = load(exported_small(family, exporter, attention))
    for one in registry.preset("lift").passes:
        one(model)
    masks = [node.inputs[3] for node in model.graph.all_nodes() if node.op_type == "Attention" and len(node.inputs) > 3]
    assert masks and all(mask is not None and is_mask(mask) for mask in masks)
