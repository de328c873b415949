"""Write few-bit weights as one plain ``DequantizeLinear`` each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, Outcome, Site, Stage, Use
from bct_onnx.forms import folded, mixed_table, packed, packed_rows, tables
from bct_onnx.forms.activations import Activation
from bct_onnx.forms.products import Product
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.quant import Blocks, Scheme

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int8]


@dataclasses.dataclass(frozen=True)
class LowerQdq(NodePass):
    """Write every quantized weight and table as ``DequantizeLinear`` of constant codes with constant scales.

    Why:
        Compilers of accelerators read quantization from ``DequantizeLinear`` with constants right in front of it: no
        nested scales, no functions, no arithmetic that another provider would have to fold first.

    Before/after:
        ``DQ(codes, DQ(multipliers, scale))`` becomes ``DQ(codes, scales)``: 4-bit codes and a float scale per block, or
        int8 codes (multiplier times code) and one scale per column. ``GatherBlocks(codes, multipliers, scale, ids)``
        becomes ``Gather(Transpose(DQ(codes, scales)), ids)``. 2- and 3-bit codes are stored with 4 bits,
        5- and 6-bit ones with 8.

    Declines:
        Weights with zero points, and those that another tool has quantized unless they are spelled as ours are.

    Options:
        weights: block keeps 4 bits; column is what integer kernels multiply, and gives tables a single scale, the only
            form that some look rows up in; auto (default) takes column for weights whose activations are codes, and
            block elsewhere.
        scales: float16 (and a Cast behind it) or float32: type of the scales of blocks. One scale per column is float32
            anyway.
        decode: operator; or arithmetic, which multiplies codes, multipliers and a scale per column, as small as they
            are stored. Runtimes do that once, at load, where they would run the operator on every call, and multiply as
            floats.
        lookup: whole decodes a table before rows are looked up in it; rows looks packed codes and scales up, and
            decodes these in float arithmetic alone. What an output layer shares is decoded whole.

    Promise:
        Bounded: float16 scales move weights by up to 1/2048; a single scale moves what is in a table by up to its
        largest magnitude / 254.
    """

    name: ClassVar[str] = "lower-qdq"
    stage: ClassVar[Stage] = Stage.LOWER
    promise: ClassVar[str] = "bounded"
    stores_rows_alike: ClassVar[bool] = True

    weights: Literal["auto", "block", "column"] = "auto"
    scales: Literal["float16", "float32"] = "float16"
    decode: Literal["operator", "arithmetic"] = "operator"
    lookup: Literal["whole", "rows"] = "whole"
    operators: ClassVar[tuple[str, ...]] = ("MatMul", *tables.LOOKUPS, mixed_table.LOOKUP)

    def written_bits(self, shape: tuple[int, int], scheme: Scheme, use: Use) -> int | None:
        """4 bits and a float per block, or 8 bits and a scale per column; arithmetic leaves it as it is stored."""
        if self.decode == "arithmetic":
            return None
        k, n = shape
        if scheme.bits == 8 or self.weights == "column" or (self.weights == "auto" and use is Use.CODES):
            return 8 * k * n + (32 + 8) * n
        step_bits = 16 if self.scales == "float16" else 32
        return (4 if scheme.bits <= 4 else 8) * k * n + step_bits * scheme.grid(k, n)[0] * n

    def rewriter(self, model: ir.Model, nodes: Sequence[ir.Node]) -> Callable[[ir.Node], Outcome]:
        """What several nodes share, a weight that is written anew, is made once."""
        return _Lowering(self).lower


class _Lowering:
    """One run over a model, with the decoded weights [K, N] by their constant and whether they have a scale per
    column."""

    def __init__(self, options: LowerQdq) -> None:
        self.weights, self.scales, self.rows = options.weights, options.scales, options.lookup == "rows"
        self.arithmetic = options.decode == "arithmetic"
        self.done: dict[tuple[ir.Value, bool], ir.Value] = {}

    def lower(self, node: ir.Node) -> Outcome:
        if node.op_type != "MatMul":
            return self._lookup(node)
        product = Product.of(node)
        if product is not None:
            return self._product(product)
        is_foreign = _is_codes(node.inputs[1]) and tensors.is_constant_expression(node.inputs[1])
        if is_foreign:
            return Declined(node.name or "", "its weight is not quantized as it is here")
        return None

    def _product(self, product: Product) -> Site | Declined:
        node, weight = product.node, product.weight
        if weight.zero_points is not None:
            return Declined(node.name or "", "its weight has zero points")
        column = self.weights == "column" or (self.weights == "auto" and not product.x.is_float)
        key = packed.constant(weight.codes), column
        if key not in self.done:
            blocks = weight.blocks()
            if column or blocks.multipliers is None:
                blocks = _by_column(blocks)
            self.done[key] = self._write(_head(key[0], weight.name), blocks)
        edit = Edit(node)
        decoded = packed.typed(edit, self.done[key], weight.dtype)
        edit.replace(node.outputs[0], edit.op("MatMul", node.inputs[0], decoded))
        return Site(node.name or "", ("MatMul",), "int8, a scale per column" if column else "a scale per block")

    def _lookup(self, node: ir.Node) -> Site:
        table = mixed_table.read(node) or tables.read(node)
        assert table is not None
        codes = table.places if isinstance(table, mixed_table.MixedTable) else table.codes
        key = codes, self.weights == "column"
        blocks = table.blocks()
        if self.rows and all(use.node.op_identifier() == node.op_identifier() for use in codes.uses()):
            edit = Edit(node)
            edit.replace(node.outputs[0], packed_rows.lookup(edit, table.name, blocks, node.inputs[-1]))
            return Site(node.name or "", (node.op_type,), "rows of packed codes")
        if key not in self.done:
            self.done[key] = self._write(_head(codes, table.name), _by_scale(blocks) if key[1] else blocks)
        edit = Edit(node)
        rows = edit.op("Transpose", self.done[key], perm=[1, 0], name="table")
        edit.replace(node.outputs[0], edit.op("Gather", rows, node.inputs[-1], axis=0))
        by_row = key[1] or blocks.multipliers is None
        return Site(node.name or "", (node.op_type,), "a scale per row" if by_row else "a scale per block")

    def _write(self, edit: Edit, blocks: Blocks) -> ir.Value:
        """float32 [K, N] from blocks that have multipliers, or one scale per column or in all."""
        if self.arithmetic:
            return folded.decoded(edit, blocks)
        codes, name = _constant(edit, blocks.codes), f"{edit.label}.scales"
        if blocks.multipliers is None:
            options: dict[str, Any] = {"axis": 1} if blocks.scale.ndim else {}
            scale = edit.constant(name, blocks.scale.astype(np.float32))
            # What is moved behind a Transpose loses the sign of its codes in ONNX Runtime 1.23, unless zeros have it.
            zeros = edit.constant(f"{edit.label}.zero_points", np.zeros(blocks.scale.shape, np.int8))
            return edit.op("DequantizeLinear", codes, scale, zeros, **options, name="wide")
        grid: dict[str, Any] = {"axis": 0, "block_size": blocks.scheme.block_shape[0]}
        scales = edit.constant(name, blocks.steps().astype(self.scales))
        wide = edit.op("DequantizeLinear", codes, scales, **grid, name="decoded")
        if self.scales == "float32":
            return wide
        return edit.op("Cast", wide, to=ir.DataType.FLOAT, name="wide")


def _by_column(blocks: Blocks) -> Blocks:
    """The same numbers with one scale for each column: multipliers go into the codes."""
    scale = np.repeat(blocks.scale, blocks.scheme.block_shape[1])[: blocks.shape[1]]
    return dataclasses.replace(blocks, codes=blocks.int8(), multipliers=None, scale=scale)


def _by_scale(blocks: Blocks) -> Blocks:
    """A table [D, V] as int8 with a single scale."""
    wide = blocks.codes * blocks.scale.astype(np.float32)
    if blocks.multipliers is not None:
        rows = blocks.scheme.block_shape[0]
        wide *= np.repeat(blocks.multipliers, rows, axis=0)[: blocks.shape[0]]
    step = np.float32(max(float(np.abs(wide).max()), 1e-30) / 127)
    codes = np.rint(wide / step).astype(np.int8)
    return dataclasses.replace(blocks, codes=codes, multipliers=None, scale=np.asarray(step))


def _is_codes(value: ir.Value | None) -> bool:
    return value is not None and not Activation.of(value).is_float


def _head(constant: ir.Value, name: str) -> Edit:
    """For nodes at the head of the graph that owns a constant, where all its users see what they give."""
    owner = constant.graph
    assert owner is not None
    return Edit(owner[0], name)


def _constant(edit: Edit, codes: Integers) -> ir.Value:
    """Codes of at most 4 bits as INT4."""
    if codes.min() >= -8 and codes.max() <= 7:
        return edit.constant(f"{edit.label}.codes", codes.astype(ml_dtypes.int4), ir.DataType.INT4)
    return edit.constant(f"{edit.label}.codes", codes, ir.DataType.INT8)
