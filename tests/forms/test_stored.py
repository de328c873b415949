"""Numbers that are written as a stored weight or table are read back as they were, whichever way round."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bct_onnx.forms import tables, weights
from bct_onnx.forms.activations import Activation
from bct_onnx.forms.products import Product, products
from bct_onnx.graph.edit import Edit
from bct_onnx.quant import Blocks, Scheme, quantize
from passes.quantize_activations import QuantizeActivations
from passes.quantize_weights import QuantizeWeights
from tests.passes.small import apply, model, normal, outputs

bits = st.sampled_from([2, 3, 4, 5, 6, 8])
sizes = st.integers(1, 40)


def same(got: Blocks, wanted: Blocks) -> None:
    assert got.shape == wanted.shape and got.scheme.bits == wanted.scheme.bits
    np.testing.assert_array_equal(got.int8(), wanted.int8())
    np.testing.assert_array_equal(got.steps(), wanted.steps())
    np.testing.assert_array_equal(got.dequantize(), wanted.dequantize())


def empty() -> tuple[ir.Model, Edit]:
    target = model("g (float[m,2] x) => (float[m,2] y) { y = Relu (x) }")
    return target, Edit(target.graph[0])


@given(bits, sizes, sizes, st.sampled_from([8, 16, (8, 3)]), st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_weight(bits: int, k: int, n: int, block: int | tuple[int, int], symmetric: bool, half: bool) -> None:
    scheme = Scheme(bits, block, symmetric or bits > 4, signed_scales=True)
    blocks, dtype = quantize(normal(k, n), scheme), ir.DataType.FLOAT16 if half else ir.DataType.FLOAT
    target, edit = empty()
    stored = weights.read(weights.write(target, edit, "w", blocks, dtype))
    assert stored is not None and (stored.k, stored.n, stored.bits) == (k, n, bits)
    assert stored.name == "w" and stored.dtype == dtype and not stored.transposed
    same(stored.blocks(), blocks)


@given(bits, sizes, sizes, st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_packed_weight_is_the_same(bits: int, k: int, n: int, symmetric: bool) -> None:
    blocks = quantize(normal(k, n), Scheme(bits, 16, symmetric or bits > 4))
    target, edit = empty()
    stored = weights.read(weights.write(target, edit, "w", blocks.pack(0, axis=1)))
    assert stored is not None
    same(stored.blocks(), blocks)


@given(bits, sizes, sizes, st.sampled_from([8, 16]))
@settings(max_examples=30, deadline=None)
def test_a_table_and_the_output_layer_tied_to_it(bits: int, d: int, v: int, block: int) -> None:
    blocks = quantize(normal(d, v), Scheme(bits, block, signed_scales=True))
    target, edit = empty()
    table = tables.write(edit, "t", blocks)
    table.lookup(target, edit, edit.shape("ids", [0]))
    again = tables.read(edit.made[-1])
    assert again == table and again is not None and (again.count, again.length, again.bits) == (v, d, bits)
    same(again.blocks(), blocks)
    tied = weights.read(table.as_weight(target, edit))
    assert tied is not None and tied.transposed and (tied.k, tied.n) == (d, v) and tied.name == table.name
    same(tied.blocks(), blocks)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_rows_that_are_looked_up_are_those_of_the_blocks(bits: int) -> None:
    target = model("g (int64[n] ids) => (float[n,20] y) { y = Gather (t, ids) }", t=normal(12, 20))
    blocks = quantize(normal(20, 12), Scheme(bits, 16, signed_scales=True))
    edit = Edit(target.graph[0])
    edit.replace(target.graph.outputs[0], tables.write(edit, "q", blocks).lookup(target, edit, target.graph.inputs[0]))
    ids = np.array([3, 0, 11, -1])
    for (rows,) in outputs(target, ids=ids).values():
        np.testing.assert_allclose(rows, blocks.dequantize().T[ids], rtol=1e-6)


def test_other_lookups_are_no_stored_tables() -> None:
    target = model("g (int64[n] ids) => (float[n,20] y) { y = Gather (t, ids) }", t=normal(12, 20))
    assert tables.read(target.graph[0]) is None


TEXT = "g (float[m,64] x) => (float[m,32] y) { h = Relu (x)  z = MatMul (h, w)  y = Add (z, b) }"


def product(per: str, text: str = TEXT, **arrays: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Product:
    target = model(text, w=normal(64, 32), **(arrays or {"b": normal(32)}))
    apply(QuantizeWeights(), target)
    if per != "float":
        apply(QuantizeActivations(block=32).replace(per=per), target)
    (found,) = products(target.graph)
    assert found.x.source is not None and found.x.source.name == "h"
    return found


@pytest.mark.parametrize("per", ["float", "tensor", "token", "block"])
def test_what_goes_into_a_product(per: str) -> None:
    x = product(per).x
    assert x.is_float == (per == "float") and x.is_per_tensor == (per == "tensor")
    assert x.is_per_token(64) == (per == "token") and not x.is_per_token(16)
    assert x.is_blocked == (per in ("token", "block")) and x.rank == 2
    assert Activation.of(x.value) == x


def test_what_follows_a_product() -> None:
    found = product("token")
    assert found.bias is not None and found.bias.name == "b" and found.addition is found.last
    assert found.result.name == "y" and found.quantize is None and found.rank == 2
    text = TEXT.replace("y = Add (z, b)", "c = Cast <to = 1> (b)  y = Add (z, c)")
    node = product("token", text, b=normal(32).astype(np.float16)).node
    float32, any_type = Product.of(node), Product.of(node, any_bias=True)
    assert float32 is not None and any_type is not None and any_type.bias is not None
    assert float32.bias is None or float32.bias.dtype == ir.DataType.FLOAT
    assert product("token", b=normal(1, 32)).bias is None  # no vector
