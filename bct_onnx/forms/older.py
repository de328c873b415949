"""Operators that older versions of ONNX Runtime lack, in operators that they have.

Each function rewrites one node in place and returns why not, if that cannot be. What a function needs of the runtime
beside operators of opset 13 stands in `SPELLINGS`, the table that says which of them stand for an operator, the best
first. What few-bit constants become is in `bct_onnx.forms.nibbles`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from bct_onnx.forms import decomposed_attention, hidden_rows, packed
from bct_onnx.graph import functions, quantizers, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.kernels import MICROSOFT
from bct_onnx.graph.known import dtype_of, rank_of
from bct_onnx.graph.neighbours import attributes_of, operand, operands
from bct_onnx.graph.runtimes import Use

_LOOKUP, _PRODUCT = f"{MICROSOFT}::GatherBlockQuantized", f"{MICROSOFT}::MatMulNBits"
_ALL_NIBBLES = 0x88
"""Added to a byte without carry it moves two codes of 4 bits from unsigned around 8 to signed."""


@dataclasses.dataclass(frozen=True)
class Spelling:
    """One way to write an operator.

    Attributes:
        write: Does it to a node of the model; gives why not.
        needs: What the runtime has to have for it, None for operators that all versions have.
    """

    write: Callable[[ir.Model, ir.Node], str]
    needs: Use | None = None


def attention(model: ir.Model, node: ir.Node) -> str:
    """``Attention`` in matrix products and a softmax, with zeros where a query sees nothing."""
    if hidden_rows.may_be_hidden(operand(node, hidden_rows.MASK)) and not hidden_rows.is_guarded(node):
        hidden = hidden_rows.hidden_rows(node, {})
        if isinstance(hidden, str):
            return hidden
        node = hidden_rows.guard(node, hidden)
    return decomposed_attention.write(node)


def rms_norm(model: ir.Model, node: ir.Node) -> str:
    """``RMSNormalization`` in the spelling that ONNX Runtime makes one kernel of when a session is created."""
    x, scale = node.inputs[:2]
    axis, dtype = node.attributes.get_int("axis", -1), dtype_of(x)
    if axis >= 0 and (x is None or x.shape is None):
        return "the number of dimensions of its input is not known"
    axes = list(range(axis, 0 if axis < 0 else rank_of(x) or 0))
    edit, wide = Edit(node), x
    if dtype not in (None, ir.DataType.FLOAT):
        wide = edit.op("Cast", x, to=ir.DataType.FLOAT, name="wide")
    squares = edit.op("Pow", wide, edit.scalar("two", 2.0, ir.DataType.FLOAT), name="squares")
    mean = edit.op("ReduceMean", squares, edit.shape("axes", axes), keepdims=1, name="mean")
    least = edit.scalar("epsilon", node.attributes.get_float("epsilon", 1e-5), ir.DataType.FLOAT)
    root = edit.op("Sqrt", edit.op("Add", mean, least, name="above_zero"), name="root")
    normalized = packed.typed(edit, edit.op("Div", wide, root, name="normalized"), dtype or ir.DataType.FLOAT)
    edit.replace(node.outputs[0], edit.op("Mul", normalized, scale, name="scaled"))
    return ""


def rotary(model: ir.Model, node: ir.Node) -> str:
    """``RotaryEmbedding`` in products and sums: each pair of channels is turned by the angle of its token."""
    x, cosines, sines, positions = operands(node, 4)
    if x is None or x.shape is None:
        return "the number of dimensions of its input is not known"
    edit, turned, heads = Edit(node), x, node.attributes.get_int("num_heads", 0)
    if x.shape.rank() == 3:
        turned = edit.op("Reshape", x, edit.shape("heads", [0, 0, heads, -1]), name="apart")
        turned = edit.op("Transpose", turned, perm=[0, 2, 1, 3], name="heads")
    angles = [cosines, sines]
    if positions is not None:
        angles = [edit.op("Gather", angle, positions, axis=0, name="angles") for angle in angles]
    axis = edit.shape("axis", [1])
    cosine, sine = (edit.op("Unsqueeze", angle, axis, name="of_all_heads") for angle in angles)
    rest: list[ir.Value] = []
    if part := node.attributes.get_int("rotary_embedding_dim", 0):
        size = edit.op("Shape", turned, start=3, name="size")
        turned, passed = _parted(edit, turned, part, size)
        rest.append(passed)
    pairs = edit.shape("pairs", [0, 0, 0, -1, 2])
    interleaved = bool(node.attributes.get_int("interleaved", 0))
    if interleaved:
        turned = edit.op("Transpose", edit.op("Reshape", turned, pairs, name="pairs"), perm=[0, 1, 2, 4, 3])
        turned = edit.op("Reshape", turned, edit.shape("halves", [0, 0, 0, -1]), name="halves")
    edit.op("Split", turned, axis=-1, num_outputs=2, outputs=2, name="halves")
    first, second = edit.made[-1].outputs
    real = edit.op("Sub", edit.op("Mul", first, cosine), edit.op("Mul", second, sine), name="real")
    imaginary = edit.op("Add", edit.op("Mul", first, sine), edit.op("Mul", second, cosine), name="imaginary")
    if interleaved:
        last = edit.shape("last", [-1])
        beside = [edit.op("Unsqueeze", half, last, name="beside") for half in (real, imaginary)]
        pairwise = edit.op("Concat", *beside, axis=-1, name="pairwise")
        joined = edit.op("Reshape", pairwise, edit.shape("flat", [0, 0, 0, -1]), name="joined")
    else:
        joined = edit.op("Concat", real, imaginary, axis=-1, name="joined")
    if rest:
        joined = edit.op("Concat", joined, *rest, axis=-1, name="all")
    if x.shape.rank() == 3:
        joined = edit.op("Transpose", joined, perm=[0, 2, 1, 3], name="tokens")
        joined = edit.op("Reshape", joined, edit.shape("merged", [0, 0, -1]), name="merged")
    edit.replace(node.outputs[0], joined)
    return ""


def _parted(edit: Edit, value: ir.Value, part: int, size: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The first ``part`` channels and the others."""
    start, middle, axis = edit.shape("start", [0]), edit.shape("middle", [part]), edit.shape("channels", [3])
    return (
        edit.op("Slice", value, start, middle, axis, name="turned"),
        edit.op("Slice", value, middle, size, axis, name="passed"),
    )


def lookup_int4(model: ir.Model, node: ir.Node) -> str:
    """``GatherBlockQuantized`` of INT4 codes instead of bytes that hold two: the same bytes, moved by 8."""
    codes = node.inputs[0]
    if reason := _no_table(node):
        return reason
    assert codes is not None
    if len(codes.uses()) > 1:
        return "an output layer shares its table"
    edit, bytes_ = Edit(node), tensors.array(codes)
    shape, name = ir.Shape([bytes_.shape[0], 2 * bytes_.shape[1]]), (codes.name or "table.codes")
    moved = (bytes_ ^ np.uint8(_ALL_NIBBLES)).reshape(-1)
    table = edit.constant(name, ir.PackedTensor(moved, ir.DataType.INT4, shape=shape))
    options = {key: attribute.value for key, attribute in node.attributes.items() if key != "bits"}
    rows = edit.op("GatherBlockQuantized", table, *node.inputs[1:], domain=MICROSOFT, **options)
    edit.replace(node.outputs[0], rows)
    return ""


def lookup_rows(model: ir.Model, node: ir.Node) -> str:
    """``GatherBlockQuantized`` as lookups of codes and scales, which are multiplied."""
    if reason := _no_table(node):
        return reason
    codes, indices, scales = node.inputs
    assert codes is not None and codes.shape is not None
    width = codes.shape[-1]
    assert isinstance(width, int)
    edit, block = Edit(node), node.attributes["block_size"].as_int()
    bytes_ = edit.op("Gather", codes, indices, axis=0, name="bytes")
    unpacked = packed.unpack(model, edit, bytes_, 4, 2 * width)
    factors = edit.op("Gather", scales, indices, axis=0, name="scales")
    wide = packed.expand_columns(model, edit, factors, 2 * width, block)
    values = edit.op("Cast", unpacked, to=ir.DataType.FLOAT, name="values")
    edit.replace(node.outputs[0], edit.op("Mul", values, wide, name="rows"))
    return ""


def _no_table(node: ir.Node) -> str:
    """Why a lookup is not one of ours: 4 bits, no zero points, blocks along rows."""
    codes, number = node.inputs[0], node.attributes.get_int
    if codes is None or not codes.is_initializer() or codes.dtype != ir.DataType.UINT8 or operand(node, 3) is not None:
        return "its codes are computed, or have zero points"
    if number("bits", 4) != 4 or number("gather_axis", 0) != 0 or number("quantize_axis", 1) != 1:
        return "it has other than 4 bits in blocks along rows"
    return ""


def product_and_sum(model: ir.Model, node: ir.Node) -> str:
    """``MatMulNBits`` without its bias, which is added."""
    bias = operand(node, 5)
    if bias is None:
        return "it has no bias that could be added"
    edit, options = Edit(node), attributes_of(node)
    operands = list(node.inputs[:5])
    while operands[-1] is None:
        operands.pop()
    product = edit.op("MatMulNBits", *operands, domain=MICROSOFT, **options)
    edit.replace(node.outputs[0], edit.op("Add", product, bias, name="biased"))
    return ""


def decode_blocks(model: ir.Model, node: ir.Node) -> str:
    """``DequantizeLinear`` in blocks as codes times scales, one for each: folded at load where both are constant."""
    codes, scale, point = operands(node, 3)
    block, axis = node.attributes.get_int("block_size", 0), node.attributes.get_int("axis", 1)
    rank = rank_of(codes)
    if not block or codes is None or scale is None or rank is None:
        return "it has no blocks, or a shape that is not known"
    axis %= rank
    edit, kind = Edit(node), scale.dtype or ir.DataType.FLOAT
    spread = _spread(model, edit, codes, block, axis)
    if isinstance(spread, str):
        return spread
    values = edit.op("Cast", codes, to=kind, name="values")
    if point is not None:
        values = edit.op("Sub", values, spread(edit.op("Cast", point, to=kind, name="points")), name="centred")
    edit.replace(node.outputs[0], edit.op("Mul", values, spread(scale), name="decoded"))
    return ""


def _spread(
    model: ir.Model, edit: Edit, codes: ir.Value, block: int, axis: int
) -> Callable[[ir.Value], ir.Value] | str:
    """What makes one value per code of one per block along an axis."""
    assert codes.shape is not None
    length, rank = codes.shape[axis], codes.shape.rank()
    if isinstance(length, int) and length <= block:
        return lambda value: value  # one block: it spreads by itself
    options: dict[str, Any] = {"rows": block, "columns": 1}
    if axis == 0 and rank == 2:
        domain = functions.use(model, "ExpandBlocks")
        return lambda value: edit.op("ExpandBlocks", value, codes, domain=domain, **options, name="spread")
    if axis == rank - 1 and isinstance(length, int):
        return lambda value: packed.expand_columns(model, edit, value, length, block)
    return "its blocks lie along an axis in the middle"


SPELLINGS: Mapping[str, tuple[Spelling, ...]] = {
    "Attention": (Spelling(attention),),
    "RMSNormalization": (Spelling(rms_norm),),
    "RotaryEmbedding": (Spelling(rotary),),
    "QuantizeLinear": (Spelling(quantizers.respell),),
    "DequantizeLinear": (Spelling(decode_blocks),),
    _LOOKUP: (Spelling(lookup_int4, Use(_LOOKUP, ("int4", "int64", "float"), ())), Spelling(lookup_rows)),
    _PRODUCT: (Spelling(product_and_sum),),
}
"""How an operator can be written, the best way first."""
