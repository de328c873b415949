"""Lower the portable forms to what ONNX Runtime's CPU provider runs fastest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, Outcome, Site, Stage
from bct_onnx.forms import int8, nbits, products, tables
from bct_onnx.forms.products import Product
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.kernels import MICROSOFT
from bct_onnx.graph.neighbours import attributes_of

FOLDED = 1 << 30
"""Bytes of the largest value that ONNX Runtime folds when a session is created; what decodes a weight to more runs on
every call (``optimization.constant_folding_max_output_size_in_bytes``). So all steps to an int8 matrix take a byte per
value, with which 262,144 x 4,096 still fits."""

DECODED = "int8 matrix decoded at load"


@dataclasses.dataclass(frozen=True)
class LowerWeights(NodePass):
    """Decode few-bit weights into int8 when a session is created, and multiply with the runtime's int8 kernels.

    Why:
        ONNX Runtime fuses blocked 4-bit weights into MatMulNBits, which is slower than float from some 64 rows on. A
        two-level weight *is* an int8 matrix with one scale per column, and arithmetic on initializers is folded at
        load: few bits on disk, int8 speed at run time, the same numbers.

    Before/after:
        ``MatMul(DQ(QuantizeLinear(x, s), s), DQ(codes, DQ(multipliers, scale)))`` becomes
        ``Mul(MatMulIntegerToFloat(QuantizeLinear(x, s, 128), DecodeInt8(codes, multipliers), scale), s)``;
        with a per-tensor scale, ``MatMulIntegerToFloat`` with all scales and the bias. ``GatherBlocks`` becomes
        ``GatherBlockQuantized``.

    Declines:
        Activations quantized in a way that no kernel takes. Float activations are no reason: their weight is decoded to
        float at load, or, where that is more than ONNX Runtime folds, multiplied by MatMulNBits in float. Tables whose
        bits or block GatherBlockQuantized does not take.

    Options:
        None.

    Promise:
        Bounded: every MatMul has the same integers and differs by float rounding alone. Behind it an activation that
        lies on the edge between two codes may take the other one, so whole models agree to some 30 dB SQNR, far
        within the quantization error itself.
    """

    name: ClassVar[str] = "lower-weights"
    stage: ClassVar[Stage] = Stage.LOWER
    promise: ClassVar[str] = "bounded"
    operators: ClassVar[tuple[str, ...]] = ("MatMul", *tables.BLOCKED)
    imports: ClassVar[str] = MICROSOFT

    def rewriter(self, model: ir.Model, nodes: Sequence[ir.Node]) -> Callable[[ir.Node], Outcome]:
        """What several MatMuls share (codes of x, decoded weights) is made once."""
        return _Lowering(model).lower


class _Lowering:
    """One run over a model."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.tokens: dict[tuple[int, int], tuple[ir.Value, ir.Value, ir.Value]] = {}
        self.matrices = int8.Matrices(model)
        self.packing = nbits.Packing(model)

    def lower(self, node: ir.Node) -> Outcome:
        if node.op_type != "MatMul":
            return tables.lowered(self.model, node)
        product = Product.of(node)
        if product is None:
            return None
        if product.x.is_float:
            return self._weight_only(product)
        if product.x.is_per_tensor:
            return self._per_tensor(product)
        if product.x.is_per_token(product.weight.k):
            return self._per_token(product)
        return Declined(node.name or "", "its activation is quantized in a way this target has no kernel for")

    def _per_tensor(self, product: Product) -> Site:
        """One scale for the whole activation, so a bias can be added by the kernel itself."""
        decode = product.x.decode
        assert decode is not None
        matrix, edit = self.matrices.of(product.weight), Edit(product.last)
        codes, scale, zero_point = decode.inputs[:3]
        result = products.multiply(edit, (codes, scale, zero_point), matrix, product.bias)
        edit.replace(product.result, result, also=[product.node, decode])
        return Site(product.node.name or "", ("DequantizeLinear", "MatMul"), DECODED)

    def _per_token(self, product: Product) -> Site:
        node, decode, quantize = product.node, product.x.decode, product.x.quantize
        assert decode is not None and quantize is not None
        matrix, edit = self.matrices.of(product.weight), Edit(node)
        codes, token_scale, zero_point = self._tokens(quantize)
        inputs = [codes, matrix.codes, edit.scalar("one", 1.0, ir.DataType.FLOAT), matrix.scale, zero_point]
        if matrix.zero_point is not None:
            inputs.append(matrix.zero_point)
        result = edit.op(products.PRODUCT, *inputs, domain=MICROSOFT)
        result.dtype, result.shape = ir.DataType.FLOAT, node.outputs[0].shape
        result = edit.op("Mul", result, token_scale, name="scaled")
        edit.replace(node.outputs[0], result, also=[decode])
        return Site(result.name or "", ("DequantizeLinear", "MatMul"), DECODED)

    def _tokens(self, quantize: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value]:
        """uint8 codes, scales and zero point of one activation: the kernels are fast with an unsigned left side
        only."""
        x, scale = quantize.inputs[:2]
        assert x is not None and scale is not None
        key = (id(x), id(scale))
        if key not in self.tokens:
            edit = Edit(quantize)
            zero = edit.scalar("zero_point", 128 + _signed_zero(quantize), ir.DataType.UINT8)
            zeros = edit.op("Expand", zero, edit.op("Shape", scale), name="zero_points")
            options = attributes_of(quantize)
            options.pop("output_dtype", None)
            codes = edit.op("QuantizeLinear", x, scale, zeros, name="codes", **options)
            self.tokens[key] = codes, scale, zero
        return self.tokens[key]

    def _weight_only(self, product: Product) -> Site:
        """Float activations: the whole weight is decoded to float at load (DequantizeLinear would run on every
        call)."""
        node, weight = product.node, product.weight
        if 4 * weight.k * weight.n > FOLDED and not nbits.refusal(weight):
            packed, edit = self.packing.of(weight), Edit(node)
            edit.replace(node.outputs[0], nbits.product(edit, product.x.value, packed))
            return Site(node.name or "", ("MatMul",), "MatMulNBits: as floats it would be decoded on every call")
        wide, edit = int8.decoded(self.model, weight), Edit(node)
        edit.replace(node.outputs[0], edit.op("MatMul", product.x.value, wide))
        return Site(node.name or "", ("MatMul",), "float matrix decoded at load")


def _signed_zero(quantize: ir.Node) -> int:
    """The zero point of int8 codes per token; Expand spreads it to one per token."""
    if len(quantize.inputs) < 3 or quantize.inputs[2] is None:
        return 0
    spread = quantize.inputs[2].producer()
    assert spread is not None and spread.inputs[0] is not None
    return int(tensors.array(spread.inputs[0]))
