"""Function boxes: each body, without and with optimization, is the numpy formula in its description."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bct_onnx.forms.packed import layout
from bct_onnx.graph import functions
from bct_onnx.quant.packing import pack
from bct_onnx.runtime.session import run, session
from tests.graph import handmade
from tests.passes.small import LEVELS, normal

Array = np.ndarray[Any, Any]
TYPES = {"float32": "float", "float64": "double", "float16": "float16"}


def integers(low: int, high: int, *shape: int, dtype: Any = np.int8) -> Array:
    return np.random.default_rng(1).integers(low, high, shape, endpoint=True).astype(dtype)


def call(name: str, inputs: dict[str, Array], attributes: dict[str, Any], result: str) -> list[Array]:
    """Run one box on inputs that are not constant, at both ends of optimization."""
    kinds = (
        f"{TYPES.get(str(a.dtype), str(a.dtype))}[{','.join(map(str, a.shape))}] {key}" for key, a in inputs.items()
    )
    options = ", ".join(f"{key} = {value}" for key, value in attributes.items())
    spelled = f"<{options}>" if options else ""
    text = f"""<ir_version: 10, opset_import: ["" : 23, "ai.bct" : 1]>
        g ({", ".join(kinds)}) => ({result} y) {{ y = ai.bct.{name} {spelled} ({", ".join(inputs)}) }}"""
    target = ir.from_proto(handmade.model(text))
    assert functions.use(target, name) == functions.DOMAIN
    onnx.checker.check_model(ir.to_proto(target))
    return [run(session(target, optimize=level), inputs)[0] for level in LEVELS]


def equal(found: list[Array], want: Array) -> None:
    for got in found:
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("length", [1, 7, 16, 17])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("outer", [(), (3,), (2, 3), (0, 3)], ids=str)
def test_unpack(bits: int, length: int, outer: tuple[int, ...]) -> None:
    offset = 1 << (bits - 1)
    codes = integers(-offset, offset - 1, *outer, length)
    packed = pack((codes.astype(int) + offset).astype(np.uint8), bits, axis=-1)
    suffix, options = layout(bits, length)
    shape = ",".join(map(str, codes.shape))
    equal(
        call(
            f"Unpack{suffix}", {"packed": packed}, {**options, "length": [length], "offset": offset}, f"int8[{shape}]"
        ),
        codes,
    )


def test_every_code_of_eight_bits_unpacks() -> None:
    packed = np.arange(256, dtype=np.uint8)
    want = (np.arange(256) - 128).astype(np.int8)
    equal(call("Unpack", {"packed": packed}, {"bits": 8, "length": [256], "offset": 128}, "int8[256]"), want)


@pytest.mark.parametrize(("rows", "columns"), [(4, 1), (3, 5), (64, 64)])
def test_expand_and_decode(rows: int, columns: int) -> None:
    k, n = 10, 11
    grid = (-(-k // rows), -(-n // columns))
    codes, multipliers, points = integers(-8, 7, k, n), integers(-8, 7, *grid), integers(0, 15, *grid, dtype=np.uint8)

    def wide(values: Array) -> Array:
        return values.repeat(rows, 0)[:k].repeat(columns, 1)[:, :n]

    blocks = {"rows": rows, "columns": columns}
    matrix = {"blocks": multipliers.astype(np.int32), "matrix": codes.astype(np.int32)}
    equal(call("ExpandBlocks", matrix, blocks, f"int32[{k},{n}]"), wide(multipliers).astype(np.int32))
    pair = {"codes": codes, "multipliers": multipliers}
    equal(call("DecodeInt8", pair, blocks, f"int8[{k},{n}]"), codes * wide(multipliers))
    unsigned = {
        "codes": integers(0, 15, k, n, dtype=np.uint8),
        "multipliers": np.abs(multipliers) % 5,
        "points": points,
    }
    want = wide(unsigned["multipliers"]).astype(int) * (unsigned["codes"].astype(int) - wide(points))
    equal(call("DecodeInt8Offset", unsigned, blocks, f"int8[{k},{n}]"), want.astype(np.int8))


@pytest.mark.parametrize("columns", [1, 3, 64])
def test_expand_columns(columns: int) -> None:
    values = normal(2, -(-11 // columns))
    want = values.repeat(columns, 1)[:, :11]
    equal(call("ExpandColumns", {"blocks": values}, {"columns": columns, "length": [11]}, "float[2,11]"), want)


@pytest.mark.parametrize(
    "indices", [np.array([0, -1, 3]), np.array([[2], [-4]], np.int32), np.empty((0, 3), np.int64)], ids=str
)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_gathers(bits: int, indices: Array) -> None:
    length, block = 10, 4
    limit = 1 << (bits - 1)
    codes, multipliers = integers(-limit, limit - 1, 5, length), integers(-8, 7, 5, 3)
    scale = np.abs(normal(5)).astype(np.float16)
    shape = ",".join(map(str, (*indices.shape, length)))
    wide = scale.astype(np.float32)[:, None]
    if bits == 8:
        fed = {"table": codes, "scale": scale, "indices": indices}
        equal(call("GatherRows", fed, {}, f"float[{shape}]"), (codes.astype(np.float32) * wide)[indices])
        return
    packed = pack((codes.astype(int) + limit).astype(np.uint8), bits, axis=-1)
    small = pack((multipliers.astype(int) + 8).astype(np.uint8), 4, axis=-1)
    want = codes.astype(np.float32) * (multipliers.astype(np.float32) * wide).repeat(block, 1)[:, :length]
    suffix, options = layout(bits, length)
    options |= {"length": [length], "offset": limit, "block": block, "blocks": [3]}
    fed = {"table": packed, "multipliers": small, "scale": scale, "indices": indices}
    equal(call(f"Gather{suffix or 'Blocks'}", fed, options, f"float[{shape}]"), want[indices])


@pytest.mark.parametrize(("above", "below"), [(127.0, 127.0), (223.0, 32.0), (255.0, 1.0)])
def test_token_scale(above: float, below: float) -> None:
    x = normal(2, 4, 9)
    x[0, 0], x[1, 1] = 0, np.abs(x[1, 1])
    top = np.maximum(x.max(-1, keepdims=True) / np.float32(above), x.min(-1, keepdims=True) / np.float32(-below))
    want = np.maximum(top, np.float32(1e-20))
    for got in call("TokenScale", {"x": x}, {"above": above, "below": below}, "float[2,4,1]"):
        np.testing.assert_allclose(got, want, rtol=1e-6)
        assert (got > 0).all()


def test_every_function_has_a_test_and_a_description() -> None:
    tested = {
        "Unpack",
        "UnpackPlanes",
        "UnpackSlices",
        "ExpandBlocks",
        "ExpandColumns",
        "DecodeInt8",
        "DecodeInt8Offset",
    }
    tested |= {"GatherRows", "GatherBlocks", "GatherPlanes", "GatherSlices", "ScaleRows", "TokenScale"}
    tested |= {"GatherMixed", "GatherSlice", "ByteLevels"}  # in tests/passes/test_table_widths.py
    assert tested <= set(functions.names())
    for name in functions.names():
        target = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 23}, name="g"), ir_version=10)
        functions.use(target, name)
        for function in target.functions.values():
            assert function.doc_string and {node.domain for node in function} <= {"", functions.DOMAIN}
            assert not any(node.name for node in function)  # they would repeat the names of values


def test_using_a_function_twice_adds_it_once() -> None:
    target = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 23}, name="g"), ir_version=10)
    functions.use(target, "GatherBlocks")
    first = dict(target.functions)
    functions.use(target, "GatherBlocks")
    assert dict(target.functions) == first and {name for _, name, _ in first} == {
        "ExpandColumns",
        "GatherBlocks",
        "ScaleRows",
        "Unpack",
    }
    with pytest.raises(KeyError):
        functions.use(target, "Nothing")
