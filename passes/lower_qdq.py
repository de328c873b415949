"""Write few-bit weights as one plain ``DequantizeLinear`` each."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.forms import weights
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.quant.packing import unpack

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int8]

Done = dict[tuple[int, bool], ir.Value]
"""Decoded weights [K, N] by the identity of their codes, and whether they have one scale per column."""


@dataclasses.dataclass(frozen=True)
class LowerQdq(Pass):
    """Write every quantized weight and table as ``DequantizeLinear`` of constant codes with constant scales.

    Why:
        Compilers of accelerators read quantization from ``DequantizeLinear`` with constants right in front of it: no
        nested scales, no functions, no arithmetic that another provider would have to fold first.

    Before/after:
        ``DQ(codes, DQ(multipliers, scale))`` becomes ``DQ(codes, scales)``: 4-bit codes and a float scale per block, or
        int8 codes (multiplier times code) and one scale per column. ``GatherBlocks(codes, multipliers, scale, ids)``
        becomes ``Gather(Transpose(DQ(codes, scales)), ids)``. 2- and 3-bit codes are stored with 4 bits.

    Declines:
        Weights with zero points, and those that another tool has quantized unless they are spelled as ours are.

    Options:
        weights: block keeps 4 bits; column is what integer kernels multiply, and gives tables a single scale, the only
            form that some look rows up in; auto (default) takes column for weights whose activations are codes, and
            block elsewhere.
        scales: float16 (and a Cast behind it) or float32: type of the scales of blocks. One scale per column is float32
            anyway.

    Promise:
        Bounded: float16 scales move weights by up to 1/2048; a single scale moves what is in a table by up to its
        largest magnitude / 254.
    """

    name: ClassVar[str] = "lower-qdq"
    stage: ClassVar[Stage] = Stage.LOWER
    promise: ClassVar[str] = "bounded"

    weights: Literal["auto", "block", "column"] = "auto"
    scales: Literal["float16", "float32"] = "float16"

    def apply(self, model: ir.Model) -> Applied:
        """Rewrite every stored weight and every quantized table."""
        found: list[Site | Declined | None] = []
        done: Done = {}
        for graph in (model.graph, *model.graph.subgraphs()):
            for node in list(graph):
                if node.op_type == "MatMul" and not node.domain:
                    found.append(self._matmul(node, done))
                elif node.op_type in ("GatherBlocks", "GatherPlanes", "GatherRows"):
                    found.append(self._gather(node, done))
        return Applied.of(model, found)

    def _matmul(self, node: ir.Node, done: Done) -> Site | Declined | None:
        stored = weights.read(node.inputs[1])
        if stored is None:
            foreign = _is_codes(node.inputs[1]) and tensors.is_constant_expression(node.inputs[1])
            return Declined(node.name or "", "its weight is not quantized as it is here") if foreign else None
        if stored.zero_points is not None:
            return Declined(node.name or "", "its weight has zero points")
        column = self.weights == "column" or (self.weights == "auto" and _is_codes(node.inputs[0]))
        key = (id(_packed(stored.codes)), column)
        if key not in done:
            edit = _head(_packed(stored.codes))
            done[key] = self._decode(edit, _matrix(stored), *_scales(stored), stored.block[stored.transposed], column)
        edit, weight = Edit(node), done[key]
        if stored.dtype != ir.DataType.FLOAT:
            weight = edit.op("Cast", weight, to=stored.dtype, name="typed")
        edit.replace(node.outputs[0], edit.op("MatMul", node.inputs[0], weight))
        return Site(node.name or "", ("MatMul",), "int8, a scale per column" if column else "a scale per block")

    def _gather(self, node: ir.Node, done: Done) -> Site:
        table, *rest, indices = node.inputs
        assert table is not None
        column = self.weights == "column"
        if (id(table), column) not in done:
            scale, factors, block, codes = _float32(rest[-1]), None, 1, None
            if node.op_type == "GatherRows":
                codes = _integers(table)
            else:
                block = node.attributes["block"].as_int()
                factors = _unpacked(rest[0], 4, node.attributes["blocks"].as_ints()[0], 8).T
                bits, length = node.attributes.get_int("bits", 3), node.attributes["length"].as_ints()[0]
                codes = _unpacked(table, bits, length, node.attributes["offset"].as_int())
            edit = _head(table)
            if column:
                codes, scale, factors = *_one_scale(codes, scale, factors, block), None
            done[id(table), column] = self._decode(edit, codes.T, scale, factors, block, column)
        below = Edit(node)
        rows = below.op("Transpose", done[id(table), column], perm=[1, 0], name="table")
        below.replace(node.outputs[0], below.op("Gather", rows, indices, axis=0))
        return Site(
            node.name or "",
            (node.op_type,),
            "a scale per row" if column or node.op_type == "GatherRows" else "a scale per block",
        )

    def _decode(
        self, edit: Edit, codes: Integers, scale: Floats, factors: Integers | None, block: int, column: bool
    ) -> ir.Value:
        """float32 [K, N] from codes [K, N], one scale per column [N], and the multipliers [K / block, N] of blocks."""
        name = f"{edit.label}.scales"
        if factors is None or column:
            if factors is not None:
                codes = codes * np.repeat(factors, block, axis=0)[: codes.shape[0]]
            options: dict[str, Any] = {"axis": 1} if scale.ndim else {}
            return edit.op(
                "DequantizeLinear", _constant(edit, codes), edit.constant(name, scale), **options, name="wide"
            )
        kind = np.dtype(self.scales)
        blocks: dict[str, Any] = {"axis": 0, "block_size": block}
        scales = edit.constant(name, (factors * scale).astype(kind))
        wide = edit.op("DequantizeLinear", _constant(edit, codes), scales, **blocks, name="decoded")
        return wide if kind == np.float32 else edit.op("Cast", wide, to=ir.DataType.FLOAT, name="wide")


def _one_scale(codes: Integers, scale: Floats, factors: Integers | None, block: int) -> tuple[Integers, Floats]:
    """A table [V, D] as int8 with a single scale, from codes with one per row, times ``factors`` [D / block, V]."""
    wide = codes * scale[:, None]
    if factors is not None:
        wide *= np.repeat(factors, block, axis=0)[: codes.shape[1]].T
    step = np.float32(max(float(np.abs(wide).max()), 1e-30) / 127)
    return np.rint(wide / step).astype(np.int8), np.asarray(step)


def _is_codes(value: ir.Value | None) -> bool:
    producer = value.producer() if value is not None else None
    return producer is not None and producer.op_type == "DequantizeLinear"


def _head(codes: ir.Value) -> Edit:
    """An edit at the head of the graph that owns the constant, where all its users see what is made; named after it."""
    owner = codes.graph
    assert owner is not None
    return Edit(owner[0], (codes.name or "weight").removesuffix(".codes"))


def _matrix(stored: weights.Stored) -> Integers:
    """The codes [K, N]."""
    codes = _integers(stored.codes)
    return codes.T if stored.transposed else codes


def _packed(codes: ir.Value) -> ir.Value:
    """The constant behind codes: themselves, or what an Unpack box reads."""
    producer = codes.producer()
    found = codes if producer is None else producer.inputs[0]
    assert found is not None
    return found


def _constant(edit: Edit, codes: Integers) -> ir.Value:
    """Codes of at most 4 bits as INT4."""
    small = bool(codes.min() >= -8 and codes.max() <= 7)
    kind = ir.DataType.INT4 if small else ir.DataType.INT8
    return edit.constant(f"{edit.label}.codes", codes.astype(ml_dtypes.int4 if small else np.int8), kind)


def _scales(stored: weights.Stored) -> tuple[Floats, Integers | None]:
    """One scale per column [N], and the multipliers of blocks [K / block, N]."""
    repeats = 1 if stored.transposed else stored.block[1]
    scale = np.repeat(_float32(stored.scale), repeats)[: stored.n]
    if stored.multipliers is None:
        return scale, None
    factors = _integers(stored.multipliers)
    factors = factors.T if stored.transposed else np.repeat(factors, repeats, axis=1)[:, : stored.n]
    return scale, factors


def _integers(value: ir.Value) -> Integers:
    """Small integers of a constant, or of one under an Unpack box."""
    box = value.producer()
    if box is None:
        return np.asarray(tensors.array(value).astype(np.int8))
    bits, length = box.attributes.get_int("bits", 3), box.attributes["length"].as_ints()[0]
    return _unpacked(box.inputs[0], bits, length, box.attributes["offset"].as_int())


def _unpacked(value: ir.Value | None, bits: int, length: int, offset: int) -> Integers:
    assert value is not None
    unsigned = unpack(tensors.array(value), bits, length, axis=-1)
    return np.asarray(unsigned.astype(np.int16) - offset, np.int8)


def _float32(value: ir.Value | None) -> Floats:
    """A float constant, whatever it is stored in."""
    producer = value.producer() if value is not None else None
    source = producer.inputs[0] if producer is not None else value
    assert source is not None
    return np.asarray(tensors.array(source), np.float32)
