"""The portable spelling of a weight: what is written is read back, and gives the same int8 matrix."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.forms import int8, tables, weights
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.tensors import is_constant_expression
from bct_onnx.quant import Scheme, quantize
from bct_onnx.runtime.session import run, session
from tests.passes.small import LEVELS, model, normal

SCHEMES = [
    Scheme(4, 32),
    Scheme(4, 32, signed_scales=True),
    Scheme(4, (64, 64), scale="shift"),
    Scheme(4, 16, symmetric=False),
    Scheme(3, 32, signed_scales=True),
    Scheme(3, (16, 5), symmetric=False),
    Scheme(2, 16, signed_scales=True),
    Scheme(2, 16, symmetric=False),
    Scheme(8, 32),
]
schemes = pytest.mark.parametrize("scheme", SCHEMES, ids=str)


def written(scheme: Scheme) -> tuple[ir.Model, Edit, ir.Value]:
    target = model("g (float[n,70] x) => (float[n,33] y) { y = MatMul (x, w) }", w=normal(70, 33))
    edit = Edit(target.graph[0])
    return target, edit, weights.write(target, edit, "w", quantize(normal(70, 33), scheme))


def values(target: ir.Model, value: ir.Value) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    target.graph.outputs[:] = [value]
    value.type, value.shape = ir.TensorType(value.dtype or ir.DataType.FLOAT), ir.Shape([70, 33])
    return [run(session(target, optimize=level), {"x": normal(1, 70)})[0] for level in LEVELS]


@schemes
def test_the_weight_is_the_block_format(scheme: Scheme) -> None:
    target, _, value = written(scheme)
    for got in values(target, value):
        np.testing.assert_allclose(got, quantize(normal(70, 33), scheme).dequantize(), rtol=1e-6)


@schemes
def test_read_gives_int8_and_scales(scheme: Scheme) -> None:
    target, edit, value = written(scheme)
    edit = Edit(edit.anchor, "again")
    stored = weights.read(value)
    assert stored is not None and stored.float32 is value and stored.dtype == ir.DataType.FLOAT
    assert stored.k == 70 and not stored.transposed
    matrix = int8.int8(target, edit, stored)
    matrix.type = ir.TensorType(ir.DataType.INT8)
    for got in values(target, matrix):
        np.testing.assert_array_equal(got, quantize(normal(70, 33), scheme).int8())
    scale = stored.column_scale(target, edit)
    target.graph.outputs[:] = [scale]
    scale.type, scale.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([33])
    (got_scale,) = run(session(target), {"x": normal(1, 70)})
    wide = np.repeat(quantize(normal(70, 33), scheme).scale.astype(np.float32), scheme.block_shape[1])[:33]
    np.testing.assert_array_equal(got_scale, wide)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_a_table_is_read_back_transposed(bits: int) -> None:
    target = model("g (float[n,50] x) => (float[n,40] y) { y = MatMul (x, w) }", w=normal(50, 40))
    edit = Edit(target.graph[0])
    blocks = quantize(normal(50, 40), Scheme(bits, 16, signed_scales=True))
    stored = weights.read(tables.write(edit, "t", blocks).as_weight(target, edit))
    assert stored is not None and stored.transposed and stored.k == 50
    matrix = int8.int8(target, edit, stored)
    target.graph.outputs[:] = [matrix]
    matrix.type, matrix.shape = ir.TensorType(ir.DataType.INT8), ir.Shape([50, 40])
    for level in LEVELS:
        got = run(session(target, optimize=level), {"x": normal(1, 50)})[0]
        np.testing.assert_array_equal(got, blocks.int8())


def test_other_values_are_no_stored_weights() -> None:
    target = model(
        """g (float[n,64] x, int8[64,32] q) => (float[n,32] y, float[64,32] a, float[64,32] b) {
            t = Transpose (v)  y = MatMul (x, t)  a = DequantizeLinear (q, s)
            b = DequantizeLinear <block_size = 32, axis = 0> (c, z) }""",
        v=normal(32, 64),
        s=np.float32(0.1) * np.ones((), np.float32),
        c=np.ones((64, 32), np.int8),
        z=normal(2, 32),
    )
    transpose, matmul, from_input, blocked = target.graph
    assert weights.read(None) is None
    for value in (transpose.outputs[0], matmul.inputs[0], from_input.outputs[0], blocked.outputs[0]):
        assert weights.read(value) is None


FOREIGN = {
    "zero points": "w = DequantizeLinear <axis = 1> (q, s, z)",
    "another axis": "w = DequantizeLinear <axis = 0> (q, rows)",
    "one scale": "w = DequantizeLinear (q, one)",
    "a computed scale": "e = Exp (s)  w = DequantizeLinear <axis = 1> (q, e)",
    "computed codes": "c = Neg (q)  w = DequantizeLinear <axis = 1> (c, s)",
    "a constant node": "c = Constant <value_ints = [1]> ()  i = Cast <to = 3> (c)  w = DequantizeLinear (i, one)",
    "unsigned codes": "w = DequantizeLinear <axis = 1> (u, s)",
    "wide codes": "w = DequantizeLinear <axis = 1> (i32, s)",
    "float16": "h = DequantizeLinear <axis = 1> (q, s16)  w = Cast <to = 1> (h)",
    "another type": "w = DequantizeLinear <axis = 1, output_dtype = 10> (q, s)",
    "three axes": "w = DequantizeLinear <axis = 2> (q3, s)",
    "blocks of columns": "p = DequantizeLinear <axis = 1> (m1, s2)"
    "  w = DequantizeLinear <axis = 1, block_size = 16> (q, p)",
    "scales of rows": "p = DequantizeLinear <axis = 0> (m, s2)"
    "  w = DequantizeLinear <axis = 0, block_size = 32> (q, p)",
    "zero points of scales": "p = DequantizeLinear <axis = 1> (m, s, z)"
    "  w = DequantizeLinear <axis = 0, block_size = 32> (q, p)",
    "zero points of blocks": "p = DequantizeLinear <axis = 1> (m, s)"
    "  w = DequantizeLinear <axis = 0, block_size = 32> (q, p, zb)",
    "a table of columns": "t = DequantizeLinear <axis = 1> (qt, rows)  w = Transpose <perm = [1, 0]> (t)",
    "no transposition": "t = DequantizeLinear <axis = 0> (square, rows)  w = Transpose <perm = [0, 1]> (t)",
}


@pytest.mark.parametrize("spelling", FOREIGN.values(), ids=FOREIGN)
def test_what_other_tools_have_quantized_is_not_read_as_ours(spelling: str) -> None:
    """Lowerings would leave out what is different: a wrong result, in silence."""
    small = np.ones((64, 32), np.int8)
    arrays: dict[str, Any] = {
        "q": small, "u": small.astype(np.uint8), "i32": small.astype(np.int32), "q3": small[None], "qt": small.T,
        "square": np.ones((64, 64), np.int8), "s": normal(1, 32)[0], "s16": normal(1, 32)[0].astype(np.float16),
        "rows": normal(1, 64)[0], "one": normal(1)[0], "z": small[0], "zb": small[:2], "m": small[:2],
        "m1": small[:, :2], "s2": normal(1, 2)[0],
    }  # fmt: skip
    used = {name: array for name, array in arrays.items() if re.search(rf"\b{name}\b", spelling)}
    target = model(f"g (float[n,64] x) => (float[n,m] y) {{ {spelling}  y = MatMul (x, w) }}", **used)
    assert is_constant_expression(target.graph[-1].inputs[1])
    assert weights.read(target.graph[-1].inputs[1]) is None


def test_constants_are_what_comes_from_initializers_alone() -> None:
    target = model("g (float[n] x) => (float[n] y) { a = Neg (c)  b = Exp (a)  y = Add (x, b) }", c=normal(1))
    first, second, last = target.graph
    assert is_constant_expression(first.outputs[0]) and is_constant_expression(second.outputs[0])
    assert not is_constant_expression(last.outputs[0]) and not is_constant_expression(first.inputs[0])
    assert not is_constant_expression(None)
