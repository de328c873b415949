"""Lower few-bit weights to the block-wise kernels of GPU providers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, Outcome, Site, Stage
from bct_onnx.forms import nbits, tables
from bct_onnx.forms.products import Product
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.kernels import MICROSOFT


@dataclasses.dataclass(frozen=True)
class LowerNbits(NodePass):
    """Multiply by few-bit weights with MatMulNBits, and look tables up with GatherBlockQuantized.

    Why:
        GPUs are limited by the bytes they read, so a kernel that decodes weights as it multiplies is the fastest with
        few rows. ONNX Runtime has one for CUDA and WebGPU (and for the CPU), with float activations and one float scale
        per block. A two-level weight becomes that on constants, when a session is created: the file stays small.

    Before/after:
        ``MatMul(x, DQ(codes, DQ(multipliers, scale)))`` becomes ``MatMulNBits(x, PackNibbles(codes),
        BlockScales(multipliers, scale))``; 2- and 3-bit codes take 4 bits once loaded, wider ones go through
        ``PackBytes``. ``GatherBlocks`` becomes ``GatherBlockQuantized``.

    Declines:
        Weights with zero points, and blocks of a length that MatMulNBits does not have. Tables as in lower-weights.

    Options:
        None.

    Promise:
        Bounded: the same weights; products differ by float rounding, with float16 scales by that of the scales. With
        8-bit weights a provider may round activations to 8 bits per block of a row, which costs some 45 dB.
    """

    name: ClassVar[str] = "lower-nbits"
    stage: ClassVar[Stage] = Stage.LOWER
    promise: ClassVar[str] = "bounded"
    operators: ClassVar[tuple[str, ...]] = ("MatMul", *tables.BLOCKED)
    imports: ClassVar[str] = MICROSOFT

    def rewriter(self, model: ir.Model, nodes: Sequence[ir.Node]) -> Callable[[ir.Node], Outcome]:
        """What several MatMuls share, a packed weight, is made once."""
        packing = nbits.Packing(model)

        def lower(node: ir.Node) -> Outcome:
            if node.op_type == "MatMul":
                return _product(packing, node)
            return tables.lowered(model, node)

        return lower


def _product(packing: nbits.Packing, node: ir.Node) -> Outcome:
    product = Product.of(node)
    if product is None:
        return None
    if reason := nbits.refusal(product.weight):
        return Declined(node.name or "", reason)
    weight, edit = packing.of(product.weight), Edit(node)
    result = nbits.product(edit, product.x.value, weight)
    edit.replace(node.outputs[0], result)
    return Site(result.name or "", ("MatMul",), f"{weight.bits} bits in blocks of {weight.block}")
