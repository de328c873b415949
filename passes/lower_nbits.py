"""Lower few-bit weights to the block-wise kernels of GPU providers."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site
from bct_onnx.graph import functions, weights
from bct_onnx.graph.edit import Edit
from passes.lower_ort_cpu import MICROSOFT, gather

BLOCKS = (16, 32, 64, 128, 256)
"""Block sizes that MatMulNBits takes."""


@dataclasses.dataclass(frozen=True)
class LowerNbits(Pass):
    """Multiply by few-bit weights with MatMulNBits, and look tables up with GatherBlockQuantized.

    Why:
        GPUs are limited by the bytes they read, so a kernel that decodes weights as it multiplies is the fastest with
        few rows. ONNX Runtime has one for CUDA and WebGPU (and for the CPU), with float activations and one float scale
        per block. A two-level weight becomes that on constants, when a session is created: the file stays small.

    Before/after:
        ``MatMul(x, DQ(codes, DQ(multipliers, scale)))`` becomes ``MatMulNBits(x, PackNibbles(codes),
        BlockScales(multipliers, scale))``; 2- and 3-bit codes take 4 bits once loaded, 8-bit ones go through
        ``PackBytes``. ``GatherBlocks`` becomes ``GatherBlockQuantized``.

    Declines:
        Weights with zero points, and blocks of a length that MatMulNBits does not have. Tables as in lower-ort-cpu.

    Options:
        None.

    Promise:
        Bounded: the same weights; products differ by float rounding, with float16 scales by that of the scales.
    """

    name: ClassVar[str] = "lower-nbits"
    promise: ClassVar[str] = "bounded"

    def apply(self, model: ir.Model) -> Applied:
        """Lower every MatMul with a stored weight and every quantized table."""
        lowering = _Lowering(model)
        found: list[Site | Declined | None] = []
        for graph in (model.graph, *model.graph.subgraphs()):
            for node in list(graph):
                if node.op_type == "MatMul" and not node.domain:
                    found.append(lowering.matmul(node))
                elif node.op_type in ("GatherBlocks", "GatherPlanes"):
                    found.append(gather(model, node))
        if any(isinstance(one, Site) for one in found):
            model.opset_imports.setdefault(MICROSOFT, 1)
        return Applied.of(model, found)


class _Lowering:
    """One run over a model; a weight that several MatMuls share is packed once."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.packed: dict[int, tuple[ir.Value, ir.Value]] = {}

    def matmul(self, node: ir.Node) -> Site | Declined | None:
        stored = weights.read(node.inputs[1])
        if stored is None or node.inputs[0] is None:
            return None
        block = _block(stored)
        if stored.zero_points is not None or block not in BLOCKS:
            return Declined(node.name or "", f"MatMulNBits has no zero points of ours and no blocks of {block}")
        bits = _bits(stored)
        key = id(stored.float32)
        if key not in self.packed:
            self.packed[key] = self._pack(stored, bits, block)
        edit = Edit(node)
        options: dict[str, Any] = {"K": stored.k, "N": stored.n, "bits": bits, "block_size": block}
        product = edit.op("MatMulNBits", node.inputs[0], *self.packed[key], domain=MICROSOFT, **options)
        edit.replace(node.outputs[0], product)
        return Site(product.name or "", ("MatMul",), f"{bits} bits in blocks of {block}")

    def _pack(self, stored: weights.Stored, bits: int, block: int) -> tuple[ir.Value, ir.Value]:
        """Codes [N, blocks, bytes] and scales [N, blocks]."""
        producer = stored.float32.producer()
        assert producer is not None
        edit = Edit(producer, (stored.codes.name or "weight").removesuffix(".codes"))
        perm = [0, 1] if stored.transposed else [1, 0]
        name = "PackNibbles" if bits == 4 else "PackBytes"
        shape = [0, -1, block // 2, 2] if bits == 4 else [0, -1, block]
        codes = stored.codes
        if missing := -stored.k % block:
            after = [0, 0, 0, missing] if stored.transposed else [0, 0, missing, 0]
            codes = edit.op("Cast", codes, to=ir.DataType.INT8, name="int8")
            codes = edit.op("Pad", codes, edit.shape("pads", after), name="whole_blocks")
        domain = functions.use(self.model, name)
        packed = edit.op(name, codes, domain=domain, perm=perm, shape=shape, name="packed")
        scales = self._scales(edit, stored, -(-stored.k // block), perm)
        if stored.dtype != ir.DataType.FLOAT:
            scales = edit.op("Cast", scales, to=stored.dtype, name="typed")
        return packed, scales

    def _scales(self, edit: Edit, stored: weights.Stored, blocks: int, perm: list[int]) -> ir.Value:
        scale = weights.column_scale(self.model, edit, stored)
        if stored.multipliers is None:
            column = edit.op("Unsqueeze", scale, edit.shape("last", [-1]), name="column")
            return edit.op("Expand", column, edit.shape("blocks", [stored.n, blocks]), name="block_scales")
        multipliers, columns = stored.multipliers, 1 if stored.transposed else stored.block[1]
        if columns > 1:
            domain = functions.use(self.model, "ExpandColumns")
            widened: dict[str, Any] = {"columns": columns, "length": [stored.n]}
            small = edit.op("Cast", multipliers, to=ir.DataType.FLOAT, name="factors")
            multipliers = edit.op("ExpandColumns", small, domain=domain, **widened, name="multipliers")
        domain = functions.use(self.model, "BlockScales")
        return edit.op("BlockScales", multipliers, scale, domain=domain, perm=perm, name="block_scales")


def _block(stored: weights.Stored) -> int:
    """Values along K that share a scale; where a column has one, the largest block that divides K."""
    if stored.multipliers is not None:
        return stored.block[1] if stored.transposed else stored.block[0]
    return next((size for size in reversed(BLOCKS[:-1]) if stored.k % size == 0), 32)


def _bits(stored: weights.Stored) -> int:
    """4 or 8, whichever holds the codes."""
    if stored.codes.dtype in (ir.DataType.INT4, ir.DataType.INT2):
        return 4
    producer = stored.codes.producer()
    packed = producer.attributes.get_int("bits", 3) if producer is not None else 8
    return 4 if packed <= 4 else 8
