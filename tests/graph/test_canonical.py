"""Canonical text: equal for equal graphs whatever they are called, different for any other difference."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.graph.canonical import canonical_text

BASE = """<ir_version: 10, opset_import: ["" : 23]> g (float[n,4] x) => (float[n,4] y)
<float[1] one = {1}, float[20] big = {0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19}>
{ a = Add (x, one) b = Exp (x) c = Sub (a, b) d = Concat <axis = 1> (c, c) m = ReduceMax (big) e = Mul (c, m)
  y = Softmax <axis = 1> (e) dead = Neg (d) }"""


def text(model: str) -> str:
    return canonical_text(ir.from_onnx_text(model))


SAME = {
    "other names": (("a =", "alpha ="), ("(a, b)", "(alpha, b)"), ("g (float", "h (float"), ("one", "uno")),
    "another order": (("a = Add (x, one) b = Exp (x)", "b = Exp (x) a = Add (x, one)"),),
    "another IR version": (("ir_version: 10", "ir_version: 11"),),
}
DIFFERENT = {
    "operands in another order": (("Sub (a, b)", "Sub (b, a)"),),
    "another attribute": (("axis = 1> (e)", "axis = 0> (e)"),),
    "another operator": (("Exp", "Log"),),
    "a small constant": (("{1}", "{2}"),),
    "an element of a big constant": (("18,19}", "18,20}"),),
    "a name of a dimension": (("float[n,4] x", "float[m,4] x"),),
    "another type": (("float[n,4] y", "double[n,4] y"),),
    "a dead node": (("dead = Neg (d)", ""),),
    "another opset": (('"" : 23', '"" : 22'),),
}


@pytest.mark.parametrize("changes", SAME.values(), ids=SAME)
def test_names_and_order_play_no_part(changes: tuple[tuple[str, str], ...]) -> None:
    assert text(_changed(changes)) == text(BASE)


@pytest.mark.parametrize("changes", DIFFERENT.values(), ids=DIFFERENT)
def test_everything_else_shows(changes: tuple[tuple[str, str], ...]) -> None:
    assert text(_changed(changes)) != text(BASE)


def test_sharing_of_big_constants_shows() -> None:
    def model(shared: bool) -> ir.Model:
        made = ir.from_onnx_text(
            """<ir_version: 10, opset_import: ["" : 23]> g (float[n] x) => (float[n] y)
            <float[20] v = {0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19},
             float[20] w = {0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19}>
            { a = Add (x, v) y = Mul (a, w) }"""
        )
        if shared:
            made.graph.initializers["w"].replace_all_uses_with(made.graph.initializers["v"])
        return made

    assert canonical_text(model(True)) != canonical_text(model(False))


@pytest.mark.parametrize("dtype", [ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_types_that_onnx_text_cannot_print(dtype: ir.DataType) -> None:
    def model(last: int) -> ir.Model:
        made = ir.from_onnx_text(
            """<ir_version: 10, opset_import: ["" : 23]> g () => (float[4] y) <float[4] w = {0, 0, 0, 0}>
            { y = Cast <to = 1> (w) }"""
        )
        tensor = ir.Tensor(np.array([0, 1, 2, last]).astype(dtype.numpy()), dtype)
        value = made.graph.initializers["w"]
        value.const_value, value.type = tensor, ir.TensorType(dtype)
        return made

    assert f"{dtype.name.lower()}[4]" in canonical_text(model(3))
    assert canonical_text(model(3)) == canonical_text(model(3)) != canonical_text(model(4))


def test_subgraphs_and_functions_are_described() -> None:
    model = """<ir_version: 10, opset_import: ["" : 23, "local" : 1]> g (bool c, float[n] x) => (float[n] y) {
        y = If (c) <then_branch = t () => (float[n] a) { a = Neg (x) },
                    else_branch = e () => (float[n] b) { b = local.f <k = 2> (x) }>
    }
    <domain: "local", opset_import: ["" : 23]> f <k> (p) => (q) { r = Constant <value_int: int = @k> () q = Abs (p) }"""
    whole = text(model)
    assert "then_branch:" in whole and "Neg (%1)" in whole
    assert "function local.f['k']" in whole and "value_int=@k" in whole
    assert whole != text(model.replace("Neg", "Exp"))
    assert whole != text(model.replace("Abs", "Exp"))


def _changed(changes: tuple[tuple[str, str], ...]) -> str:
    changed = BASE
    for old, new in changes:
        assert old in changed
        changed = changed.replace(old, new)
    return changed
