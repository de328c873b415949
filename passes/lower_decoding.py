"""Give single rows, which a decoder sees after its prompt, to the kernel that reads 4-bit weights as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.errors import UsageError
from bct_onnx.forms import codes, nbits, weights
from bct_onnx.forms.linear import bias_of
from bct_onnx.graph import branches
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.kernels import MICROSOFT
from bct_onnx.runtime import kernel_costs
from bct_onnx.runtime.inputs import past_inputs

DEQUANTIZE = ("", "DequantizeLinear", "")
BITS = 4
"""ONNX Runtime has kernels of 2 and 8 bits too, which at one row are slower than an int8 matrix, and none of 3."""
SMALL = 1 << 16
"""Values of an activation's weights below which a second form is never written: its nodes take some 2 kB of the file
where the codes take less than 32 kB, and so little is read at once that it gains nothing. Measured with three weights
of 128 x 128: 41 us with both forms, 36 us with int8 matrices alone."""


@dataclasses.dataclass(frozen=True)
class LowerDecoding(Pass):
    """Multiply single rows by 4-bit weights with MatMulNBits, where that is faster than an int8 matrix.

    Why:
        One row makes a product wait for its weights, and MatMulNBits reads half as many bytes as an int8 kernel. From
        some four rows on it is the slower one, from 64 on slower than float. A decoder with a cache sees both: a prompt
        of many rows, then one row per token.

    Before/after:
        ``MatMul(DQ(Q(x)), W) + b`` becomes ``If(one token per sequence)`` with ``MatMulNBits(x, W, b)`` in one branch
        and the product as it was in the other, for `lower-codes` and `lower-ort-cpu`. Products of the same x share
        one. Both forms are made from the same stored codes when a session is created.

    Declines:
        Weights with zero points, of 8 bits, or in blocks of other than a power of two rows from 16 to 256; half
        precision; products that are too small to win, or have fewer than 65,536 weights together. Models without a
        key-value cache are left alone unless ``rows`` is given.

    Same result in every batch:
        The kernel of ONNX Runtime for one row adds in another order than that for several. A row of zeros goes with
        every product, so it is always the latter: two rows cost a quarter more than one (measured with AVX2).

    Options:
        rows: Rows that products mostly see, batch times tokens. 0: from the model; with a cache both forms, chosen
            at run time by the number of tokens. From 1 on: MatMulNBits alone where it is the fastest for so many.
        costs: Table of the kernels' costs: avx2, avx512-vnni, or a file that ``bct-onnx bench --kernels`` has written.
        gain: Times faster that a second form has to be: it is held in memory beside the first, and estimates err.

    Promise:
        Bounded: the weights are exactly the stored ones; activations get one 8-bit scale per block of a row, about 45
        dB. So a token that is fed alone differs by that from the same token within a prompt.
    """

    name: ClassVar[str] = "lower-decoding"
    stage: ClassVar[Stage] = Stage.LOWER
    promise: ClassVar[str] = "bounded"

    rows: int = 0
    costs: str = "avx2"
    gain: float = 1.25

    def __post_init__(self) -> None:
        if self.rows < 0:
            raise UsageError(f"rows={self.rows} is not allowed", fix="use 0 or a number of rows")

    def reads(self) -> Mapping[str, Path]:
        """A table of costs of one's own."""
        return {"costs": Path(self.costs)} if self.costs.endswith(".json") else {}

    def apply(self, model: ir.Model) -> Applied:
        """Look at all products of each activation together."""
        costs = kernel_costs.load(self.costs)
        if self.rows == 0 and _ids(model) is None:
            return Applied(model)
        lowering = _Lowering(model, costs, self.rows, self.gain)
        results = [one for products in _groups(model.graph) for one in lowering.lower(products)]
        if any(isinstance(one, Site) for one in results):
            model.opset_imports.setdefault(MICROSOFT, 1)
            model.graph.sort()
        return Applied.of(model, results)


@dataclasses.dataclass(frozen=True, eq=False)
class _Product:
    """A MatMul, what it multiplies, its weight, the last node of what follows (bias, quantization), and these two."""

    node: ir.Node
    x: ir.Value
    stored: weights.Stored
    last: ir.Node
    bias: ir.Value | None
    quantize: ir.Node | None

    @property
    def name(self) -> str:
        return self.node.name or self.node.op_type


class _Lowering:
    """One run over a model; what several groups share (packed weights, the condition) is made once."""

    def __init__(self, model: ir.Model, costs: kernel_costs.Costs, rows: int, gain: float) -> None:
        self.model, self.costs, self.rows, self.gain = model, costs, rows, gain
        self.packing = nbits.Packing(model)
        self.token: ir.Value | None = None

    def lower(self, products: Sequence[_Product]) -> Iterator[Site | Declined]:
        """Choose a form for the products of one activation by its estimated time."""
        reasons = {one: _refusal(one) for one in products}
        yield from (Declined(one.name, reason) for one, reason in reasons.items() if reason)
        fitting = [one for one in products if not reasons[one]]
        if not fitting:
            return
        if not self.rows and sum(one.stored.k * one.stored.n for one in fitting) < SMALL:
            yield from (Declined(one.name, f"a second form is not worth it below {SMALL:,} weights") for one in fitting)
            return
        usual = self._ns(_kernel(fitting[0].x), fitting)
        nbits4 = self._ns("nbits4", fitting) + (0 if self.rows else self.costs.branch_ns)
        words = f"{nbits4 / 1e3:.0f} us by MatMulNBits, {usual / 1e3:.0f} us else, by costs of {self.costs.name}"
        if nbits4 * (1 if self.rows else self.gain) >= usual:
            yield from (Declined(one.name, f"gains too little: {words}") for one in fitting)
            return
        before = tuple(one.node.op_type for one in fitting)
        names = " ".join(one.name for one in fitting)
        old = [one.last.outputs[0] for one in fitting]
        made, new = self._single_rows(fitting)
        if self.rows:
            _replace(fitting, made, old, new)
        else:
            branches.either(self._one_token(), made, new, old, f"{fitting[0].name}/either")
        yield Site(names, before, f"MatMulNBits{'' if self.rows else ' for single tokens'}: {words}")

    def _ns(self, kernel: str, products: Sequence[_Product]) -> float:
        cost = self.costs.kernels[kernel]
        return sum(cost.ns(self.rows or 1, one.stored.k, one.stored.n) for one in products)

    def _single_rows(self, products: Sequence[_Product]) -> tuple[list[ir.Node], list[ir.Value]]:
        """Nodes that give the products by MatMulNBits, with a row of zeros behind the others, and the results."""
        first = products[0]
        rank = _rank(first)
        edit, new = Edit(first.node), _New(first.name)
        pads = edit.shape("one_row_more", [0] * rank + [1] + [0] * (rank - 1))
        padded = new.op("Pad", _source(first.x, new), pads)
        start, end = edit.shape("first", [0]), edit.shape("last", [-1])
        results = []
        for one in products:
            right, scales, options = self.packing.of(one.stored)
            inputs = (padded, right, scales, None, None, one.bias)[: 3 if one.bias is None else 6]
            product = new.op("MatMulNBits", *inputs, domain=MICROSOFT, **options, accuracy_level=nbits.INT8)
            result = new.op("Slice", product, start, end, start)
            if one.quantize is not None:
                result = new.op("QuantizeLinear", result, *one.quantize.inputs[1:], **_attributes(one.quantize))
            result.type, result.shape = one.last.outputs[0].type, one.last.outputs[0].shape
            results.append(result)
        return new.nodes, results

    def _one_token(self) -> ir.Value:
        """Whether each sequence has a single token, bool []."""
        if self.token is None:
            edit = Edit(self.model.graph[0], "decoding")
            tokens = edit.op("Shape", _ids(self.model), start=1, end=2, name="tokens")
            count = edit.op("Squeeze", tokens, edit.shape("axis", [0]), name="count")
            self.token = edit.op("Equal", count, edit.scalar("one", 1, ir.DataType.INT64), name="one_token")
        return self.token


class _New:
    """Nodes that are in no graph yet."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.nodes: list[ir.Node] = []

    def op(self, op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
        name = f"{self.label}/{op_type}"
        self.nodes.append(ir.node(op_type, inputs, attributes or None, domain=domain, name=name))
        return self.nodes[-1].outputs[0]


def _refusal(product: _Product) -> str:
    if reason := nbits.refusal(product.stored):
        return reason
    if nbits.bits_of(product.stored) != BITS:
        return "its codes have 8 bits: with one row an int8 matrix is the faster one"
    if product.stored.dtype != ir.DataType.FLOAT:
        return "half precision"
    return "" if _rank(product) else "the rank of its input is unknown"


def _rank(product: _Product) -> int:
    """Of what is multiplied, from any value that has it too; 0 where none is known."""
    decoder = _decoder(product.x)
    quantized = decoder.inputs[0] if decoder is not None else None
    source = quantized.producer() if quantized is not None else None
    values = (product.x, quantized, source.inputs[0] if source is not None else None, product.node.outputs[0])
    return next((value.shape.rank() for value in values if value is not None and value.shape is not None), 0)


def _decoder(x: ir.Value) -> ir.Node | None:
    """What decodes an activation that is quantized."""
    producer = x.producer()
    return producer if producer is not None and producer.op_identifier() == DEQUANTIZE else None


def _kernel(x: ir.Value) -> str:
    """The kernel that multiplies ``x`` by stored weights in any number of rows."""
    decoder = _decoder(x)
    if decoder is None:
        return "float"
    return "int8-token" if "block_size" in decoder.attributes else "int8"


def _source(x: ir.Value, new: _New) -> ir.Value:
    """The float activation: as it was before it was quantized, where that is in float."""
    decoder = _decoder(x)
    if decoder is None:
        return x
    quantized = decoder.inputs[0].producer() if decoder.inputs[0] is not None else None
    if quantized is not None and quantized.op_type in ("QuantizeLinear", "DynamicQuantizeLinear"):
        source = quantized.inputs[0]
        assert source is not None
        return source
    return new.op("DequantizeLinear", *decoder.inputs, **_attributes(decoder))


def _replace(
    products: Sequence[_Product], made: Sequence[ir.Node], old: Sequence[ir.Value], new: Sequence[ir.Value]
) -> None:
    edit = Edit(products[0].node)
    edit.graph.insert_before(products[0].node, made)
    edit.made += made
    for one, before, after in zip(products, old, new, strict=True):
        edit.replace(before, after, also=[one.node])


def _groups(graph: ir.Graph) -> list[list[_Product]]:
    """The products of the graph whose weights are stored in integers, by what they multiply."""
    found: dict[int, list[_Product]] = {}
    for node in graph:
        if node.op_type == "MatMul" and not node.domain and node.inputs[0] is not None:
            stored = weights.read(node.inputs[1])
            if stored is not None:
                addition, bias = bias_of(node)
                if bias is not None and bias.dtype != ir.DataType.FLOAT:
                    addition = bias = None
                last = addition or node
                quantize = codes.quantized_to_bytes(last.outputs[0])
                product = _Product(node, node.inputs[0], stored, quantize or last, bias, quantize)
                found.setdefault(id(node.inputs[0]), []).append(product)
    return list(found.values())


def _ids(model: ir.Model) -> ir.Value | None:
    """The token ids [batch, tokens] of a decoder with a key-value cache."""
    ids = next((value for value in model.graph.inputs if value.name == "input_ids"), None)
    has_shape = ids is not None and ids.shape is not None and ids.shape.rank() == 2
    return ids if has_shape and past_inputs(model) else None


def _attributes(node: ir.Node) -> dict[str, Any]:
    return {name: attribute.value for name, attribute in node.attributes.items()}
