"""Lower the portable forms to what ONNX Runtime's CPU provider runs fastest."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.forms import nbits, tables, weights
from bct_onnx.forms.int8 import Matrices, int8_matrix
from bct_onnx.forms.linear import bias_of
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.kernels import MICROSOFT

FOLDED = 1 << 30
"""Bytes of the largest value that ONNX Runtime folds when a session is created; what decodes a weight to more runs on
every call (``optimization.constant_folding_max_output_size_in_bytes``). So all steps to an int8 matrix take a byte per
value, with which 262,144 x 4,096 still fits."""


@dataclasses.dataclass(frozen=True)
class LowerOrtCpu(Pass):
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

    name: ClassVar[str] = "lower-ort-cpu"
    stage: ClassVar[Stage] = Stage.LOWER
    promise: ClassVar[str] = "bounded"

    def apply(self, model: ir.Model) -> Applied:
        """Lower every MatMul with a stored weight and every quantized table."""
        sites: list[Site] = []
        declined: list[Declined] = []
        lowering = _Lowering(model)
        for graph in (model.graph, *model.graph.subgraphs()):
            for node in list(graph):
                if node.op_type == "MatMul" and not node.domain:
                    _append(sites, declined, lowering.matmul(node))
                elif node.op_type in ("GatherBlocks", "GatherPlanes"):
                    _append(sites, declined, _gather(model, node))
        if sites:
            model.opset_imports.setdefault(MICROSOFT, 1)
        return Applied(model, sites, declined)


def _append(sites: list[Site], declined: list[Declined], result: Site | Declined | None) -> None:
    if isinstance(result, Site):
        sites.append(result)
    elif result is not None:
        declined.append(result)


def _gather(model: ir.Model, node: ir.Node) -> Site | Declined:
    name = node.name or node.op_type
    if reason := tables.to_runtime(model, node):
        return Declined(name, reason)
    return Site(name, ("GatherBlocks",), "rows decoded by the runtime's own operator")


class _Lowering:
    """One run over a model; what several MatMuls share (codes of x, decoded weights) is made once."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.tokens: dict[tuple[int, int], tuple[ir.Value, ir.Value, ir.Value]] = {}
        self.matrices: Matrices = {}
        self.packing = nbits.Packing(model)

    def matmul(self, node: ir.Node) -> Site | Declined | None:
        stored = weights.read(node.inputs[1])
        if stored is None or node.inputs[0] is None:
            return None
        activation = node.inputs[0].producer()
        if activation is None or activation.op_type != "DequantizeLinear":
            return self._weight_only(node, stored)
        source = activation.inputs[0].producer() if activation.inputs[0] is not None else None
        if source is None or not (source.op_type == "DynamicQuantizeLinear" or _is_per_token(source, stored.k)):
            return Declined(node.name or "", "its activation is quantized in a way this target has no kernel for")
        matrix = int8_matrix(self.model, stored, self.matrices)
        edit = Edit(node)
        if source.op_type == "DynamicQuantizeLinear":
            self._per_tensor(edit, node, activation, matrix)
            return Site(node.name or "", ("DequantizeLinear", "MatMul"), "int8 matrix decoded at load")
        product = self._per_token(edit, node, source, *matrix)
        edit.replace(node.outputs[0], product, also=[activation])
        return Site(product.name or "", ("DequantizeLinear", "MatMul"), "int8 matrix decoded at load")

    def _per_tensor(self, edit: Edit, node: ir.Node, activation: ir.Node, matrix: tuple[ir.Value, ...]) -> None:
        """One scale for the whole activation, so a bias can be added by the kernel itself."""
        codes, scale, zero = activation.inputs[:3]
        right, column_scale, *middle = matrix
        addition, bias = bias_of(node)
        if bias is not None and bias.dtype != ir.DataType.FLOAT:
            addition = bias = None
        last = addition or node
        if addition is not None:
            edit = Edit(addition)
        inputs = (codes, right, scale, column_scale, zero, middle[0] if middle else None, bias)
        product = edit.op("MatMulIntegerToFloat", *inputs[: 7 if bias is not None else 6], domain=MICROSOFT)
        edit.replace(last.outputs[0], product, also=[node, activation])

    def _per_token(self, edit: Edit, node: ir.Node, source: ir.Node, *matrix: ir.Value) -> ir.Value:
        codes, token_scale, zero = self._tokens(source)
        one = edit.scalar("one", 1.0, ir.DataType.FLOAT)
        inputs = (codes, matrix[0], one, matrix[1], zero, *matrix[2:])
        product = edit.op("MatMulIntegerToFloat", *inputs, domain=MICROSOFT)
        product.dtype, product.shape = ir.DataType.FLOAT, node.outputs[0].shape
        return edit.op("Mul", product, token_scale, name="scaled")

    def _tokens(self, source: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value]:
        """uint8 codes, scales and zero point of one activation: the kernels are fast with an unsigned left side
        only."""
        x, scale = source.inputs[0], source.inputs[1]
        assert x is not None and scale is not None
        key = (id(x), id(scale))
        if key not in self.tokens:
            edit = Edit(source)
            zero = edit.scalar("zero_point", 128 + self._signed_zero(source), ir.DataType.UINT8)
            zeros = edit.op("Expand", zero, edit.op("Shape", scale), name="zero_points")
            options = {name: attribute.value for name, attribute in source.attributes.items() if name != "output_dtype"}
            codes = edit.op("QuantizeLinear", x, scale, zeros, name="codes", **options)
            self.tokens[key] = codes, scale, zero
        return self.tokens[key]

    def _signed_zero(self, source: ir.Node) -> int:
        """The zero point of the portable int8 codes; Expand spreads it to one per token."""
        if len(source.inputs) < 3 or source.inputs[2] is None:
            return 0
        spread = source.inputs[2].producer()
        assert spread is not None and spread.inputs[0] is not None
        return int(tensors.array(spread.inputs[0]))

    def _weight_only(self, node: ir.Node, stored: weights.Stored) -> Site:
        """Float activations: the whole weight is decoded to float at load (DequantizeLinear would run on every
        call)."""
        producer = stored.float32.producer()
        assert producer is not None
        if 4 * stored.k * stored.n > FOLDED and not nbits.refusal(stored):
            edit = Edit(node)
            product = nbits.product(edit, node.inputs[0], self.packing.of(stored))
            edit.replace(node.outputs[0], product)
            return Site(node.name or "", ("MatMul",), "MatMulNBits: as floats it would be decoded on every call")
        edit = Edit(producer, (stored.codes.name or "weight").removesuffix(".codes"))
        matrix, scale = weights.int8(self.model, edit, stored), weights.column_scale(self.model, edit, stored)
        wide = edit.op("Mul", edit.op("Cast", matrix, to=ir.DataType.FLOAT), scale, name="weight")
        if stored.dtype != ir.DataType.FLOAT:
            wide = edit.op("Cast", wide, to=stored.dtype, name="typed")
        below = Edit(node)
        below.replace(node.outputs[0], below.op("MatMul", node.inputs[0], wide))
        return Site(node.name or "", ("MatMul",), "float matrix decoded at load")


def _is_per_token(source: ir.Node, k: int) -> bool:
    """Whether int8 codes were made as quantize-activations does it: one scale per row of ``k`` channels, a single zero
    point for all."""
    if source.op_type != "QuantizeLinear" or source.attributes.get_int("block_size", 0) != k:
        return False
    points = source.inputs[2] if len(source.inputs) > 2 else None
    spread = points.producer() if points is not None else None
    return points is None or (spread is not None and spread.op_type == "Expand")
