"""Lower few-bit weights to the block-wise kernels of GPU providers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.forms import nbits, tables, weights
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.kernels import MICROSOFT


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
        Bounded: the same weights; products differ by float rounding, with float16 scales by that of the scales. With
        8-bit weights a provider may round activations to 8 bits per block of a row, which costs some 45 dB.
    """

    name: ClassVar[str] = "lower-nbits"
    stage: ClassVar[Stage] = Stage.LOWER
    promise: ClassVar[str] = "bounded"

    def apply(self, model: ir.Model) -> Applied:
        """Lower every MatMul with a stored weight and every quantized table."""
        packing = nbits.Packing(model)
        found: list[Site | Declined | None] = []
        for graph in (model.graph, *model.graph.subgraphs()):
            for node in list(graph):
                if node.op_type == "MatMul" and not node.domain:
                    found.append(_matmul(packing, node))
                elif node.op_type in ("GatherBlocks", "GatherPlanes"):
                    found.append(_gather(model, node))
        if any(isinstance(one, Site) for one in found):
            model.opset_imports.setdefault(MICROSOFT, 1)
        return Applied.of(model, found)


def _gather(model: ir.Model, node: ir.Node) -> Site | Declined:
    name = node.name or node.op_type
    if reason := tables.to_runtime(model, node):
        return Declined(name, reason)
    return Site(name, ("GatherBlocks",), "rows decoded by the runtime's own operator")


def _matmul(packing: nbits.Packing, node: ir.Node) -> Site | Declined | None:
    stored = weights.read(node.inputs[1])
    if stored is None or node.inputs[0] is None:
        return None
    if reason := nbits.refusal(stored):
        return Declined(node.name or "", reason)
    packed, edit = packing.of(stored), Edit(node)
    product = nbits.product(edit, node.inputs[0], packed)
    edit.replace(node.outputs[0], product)
    return Site(product.name or "", ("MatMul",), f"{packed[2]['bits']} bits in blocks of {packed[2]['block_size']}")
