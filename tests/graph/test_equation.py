"""Equations are read as numpy reads them, and lifted to products that give the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from bct_onnx.graph import equation, shapes
from bct_onnx.runtime.session import run, session
from passes.fuse_einsum import FuseEinsum
from tests.examples import examples
from tests.passes import small

SIZES = {"b": 2, "h": 3, "m": 4, "n": 5, "k": 6, "l": 7}


@st.composite
def products(draw: st.DrawFn) -> tuple[str, str, str]:
    """Two operands and a result: letters of both and the result, of two of them, in any order."""
    groups = [draw(st.lists(st.sampled_from(sorted(SIZES)), unique=True, max_size=2)) for _ in range(3)]
    batch = groups[0]
    rows = [letter for letter in groups[1] if letter not in batch]
    columns = [letter for letter in groups[2] if letter not in [*batch, *rows]]
    rest = [letter for letter in SIZES if letter not in [*batch, *rows, *columns]]
    inner = rest[: draw(st.integers(1, 2))]
    shuffled = [draw(st.permutations(one)) for one in (batch + rows + inner, batch + inner + columns)]
    result = draw(st.permutations(batch + rows + columns))
    return "".join(shuffled[0]), "".join(shuffled[1]), "".join(result)


def _model(
    text: str, shapes_: list[tuple[int, ...]], constant: int | None
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    arrays = {
        name: generator.standard_normal(shape).astype(np.float32) for name, shape in zip("ab", shapes_, strict=True)
    }
    fixed = [] if constant is None else ["ab"[constant]]
    inputs = [
        helper.make_tensor_value_info(name, 1, [f"{name}{axis}" for axis in range(array.ndim)])
        for name, array in arrays.items()
        if name not in fixed
    ]
    constants = [onnx.numpy_helper.from_array(arrays[name], name) for name in fixed]
    node = helper.make_node("Einsum", ["a", "b"], ["y"], equation=text)
    graph = helper.make_graph(
        [node], "g", inputs, [helper.make_tensor_value_info("y", 1, [None] * len(text.partition("->")[2]))], constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return model, {value.name: arrays[value.name] for value in inputs}


@examples(40)
@given(products(), st.sampled_from([0, 1, None]))
def test_any_product_is_lifted_and_gives_the_same(letters: tuple[str, str, str], constant: int | None) -> None:
    left, right, result = letters
    text = f"{left},{right}->{result}"
    sizes = [tuple(SIZES[letter] for letter in operand) for operand in (left, right)]
    proto, feeds = _model(text, sizes, constant)
    want = run(session(proto.SerializeToString()), feeds)[0]
    model = ir.from_proto(proto)
    shapes.infer(model)
    applied = small.apply(FuseEinsum(), model)
    assert not applied.declined or constant is None
    got = run(session(model, optimize="disabled"), feeds)[0]
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "ranks", "read"),
    [
        ("...c,cd->...d", (3, 2), "ABc,cd->ABd"),
        ("...c,cd", (3, 2), "ABc,cd->ABd"),
        ("ij,jk", (2, 2), "ij,jk->ik"),
        ("...ij,...jk->...ik", (4, 3), "ABij,Bjk->ABik"),
    ],
)
def test_ellipsis_and_missing_results(text: str, ranks: tuple[int, int], read: str) -> None:
    found = equation.parse(text, [(None,) * rank for rank in ranks])
    assert isinstance(found, equation.Equation)
    names = {letter: index for index, letter in enumerate(dict.fromkeys(c for c in found.text if c.isalpha()))}
    wanted = {letter: index for index, letter in enumerate(dict.fromkeys(c for c in read if c.isalpha()))}
    assert [names.get(c, c) for c in found.text] == [wanted.get(c, c) for c in read]


@pytest.mark.parametrize(
    ("text", "shapes_", "reason"),
    [
        ("...c,cd->...d", (None, (3, 4)), "rank"),
        ("ab,bc->ac", ((2, 3, 4), (3, 4)), "ranks"),
        ("ab,bc->ac", ((2, 1), (3, 4)), "widened"),
        ("ab,bc,cd->ad", ((2, 3), (3, 4), (4, 5)), "3 operands"),
    ],
)
def test_what_is_no_product_is_said(text: str, shapes_: tuple[tuple[int, ...] | None, ...], reason: str) -> None:
    found = equation.parse(text, list(shapes_))
    assert isinstance(found, str) and reason in found
