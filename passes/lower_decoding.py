"""Give single rows, which a decoder sees after its prompt, to the kernel that reads 4-bit weights as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.errors import UsageError
from bct_onnx.forms import codes, nbits, products
from bct_onnx.forms.activations import Activation
from bct_onnx.forms.products import Product
from bct_onnx.graph import branches
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.kernels import MICROSOFT
from bct_onnx.graph.names import by_name, names_of
from bct_onnx.graph.neighbours import attributes_of
from bct_onnx.runtime import kernel_costs
from bct_onnx.runtime.inputs import past_inputs

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
        and the product as it was in the other, for `lower-codes` and `lower-weights`. Products of the same x share
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
        if self.costs.endswith(".json"):
            return {"costs": Path(self.costs)}
        return {}

    def apply(self, model: ir.Model) -> Applied:
        """Look at all products of each activation together."""
        costs = kernel_costs.load(self.costs)
        if self.rows == 0 and _ids(model) is None:
            return Applied(model)
        lowering = _Lowering(model, costs, self.rows, self.gain)
        outcomes: list[Site | Declined] = []
        for group in _groups(model.graph):
            outcomes += lowering.lower(group)
        applied = Applied.of(model, outcomes)
        if applied.sites:
            model.opset_imports.setdefault(MICROSOFT, 1)
            model.graph.sort()
        return applied


class _Lowering:
    """One run over a model; what several groups share (packed weights, the condition) is made once."""

    def __init__(self, model: ir.Model, costs: kernel_costs.Costs, rows: int, gain: float) -> None:
        self.model, self.costs, self.rows, self.gain = model, costs, rows, gain
        self.packing = nbits.Packing(model)
        self.token: ir.Value | None = None

    def lower(self, group: Sequence[Product]) -> Iterator[Site | Declined]:
        """Choose a form for the products of one activation by its estimated time."""
        fitting: list[Product] = []
        for product in group:
            if reason := _refusal(product):
                yield Declined(product.name, reason)
            else:
                fitting.append(product)
        if not fitting:
            return
        reason, times = self._compare(fitting)
        if reason:
            for product in fitting:
                yield Declined(product.name, reason)
            return
        types, names = tuple(product.node.op_type for product in fitting), names_of(fitting)
        old = [_last(product).outputs[0] for product in fitting]
        nodes, new = self._single_rows(fitting)
        if self.rows:
            _replace(fitting, nodes, old, new)
        else:
            branches.either(self._one_token(), nodes, new, old, f"{fitting[0].name}/either")
        yield Site(" ".join(names), types, f"MatMulNBits{'' if self.rows else ' for single tokens'}: {times}")

    def _compare(self, group: Sequence[Product]) -> tuple[str, str]:
        """Why a second form is not worth it, empty where it is; and the estimated times of both."""
        values = sum(product.weight.k * product.weight.n for product in group)
        if not self.rows and values < SMALL:
            return f"a second form is not worth it below {SMALL:,} weights", ""
        usual, nbits4, gain = self._ns(_kernel(group[0].x), group), self._ns("nbits4", group), 1.0
        if not self.rows:
            nbits4, gain = nbits4 + self.costs.branch_ns, self.gain
        times = f"{nbits4 / 1e3:.0f} us by MatMulNBits, {usual / 1e3:.0f} us else, by costs of {self.costs.name}"
        return ("" if nbits4 * gain < usual else f"gains too little: {times}"), times

    def _ns(self, kernel: str, group: Sequence[Product]) -> float:
        cost = self.costs.kernels[kernel]
        return sum(cost.ns(self.rows or 1, product.weight.k, product.weight.n) for product in group)

    def _single_rows(self, group: Sequence[Product]) -> tuple[list[ir.Node], list[ir.Value]]:
        """Nodes that give the products by MatMulNBits, with a row of zeros behind the others, and the results."""
        first = group[0]
        edit, new = Edit(first.node), branches.Nodes(first.name)
        pads = edit.shape("one_row_more", [0] * first.rank + [1] + [0] * (first.rank - 1))
        padded = new.op("Pad", _floats(first.x, new), pads)
        start, end = edit.shape("first", [0]), edit.shape("last", [-1])
        results = []
        for product in group:
            weight = self.packing.of(product.weight)
            inputs: list[ir.Value | None] = [padded, weight.codes, weight.scales]
            if product.bias is not None:
                inputs += [None, None, product.bias]
            rows = new.op("MatMulNBits", *inputs, domain=MICROSOFT, **weight.attributes, accuracy_level=nbits.INT8)
            result, last = new.op("Slice", rows, start, end, start), _last(product)
            if last.op_type == "QuantizeLinear":
                result = new.op("QuantizeLinear", result, *last.inputs[1:], **attributes_of(last))
            result.type, result.shape = last.outputs[0].type, last.outputs[0].shape
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


def _refusal(product: Product) -> str:
    if reason := nbits.refusal(product.weight):
        return reason
    if nbits.bits_of(product.weight) != BITS:
        return "its codes have 8 bits: with one row an int8 matrix is the faster one"
    if product.weight.dtype != ir.DataType.FLOAT:
        return "half precision"
    if product.rank:
        return ""
    return "the rank of its input is unknown"


def _kernel(x: Activation) -> str:
    """The kernel that multiplies ``x`` by stored weights in any number of rows."""
    if x.is_float:
        return "float"
    return "int8-token" if x.is_blocked else "int8"


def _floats(x: Activation, new: branches.Nodes) -> ir.Value:
    """The float activation: as it was before it was quantized, where that is in float."""
    if x.source is not None:
        return x.source
    assert x.decode is not None
    return new.op("DequantizeLinear", *x.decode.inputs, **attributes_of(x.decode))


def _last(product: Product) -> ir.Node:
    """The node that gives the result: as bytes, where they are made of it."""
    return codes.quantized_to_bytes(product.result) or product.last


def _replace(
    group: Sequence[Product], nodes: Sequence[ir.Node], old: Sequence[ir.Value], new: Sequence[ir.Value]
) -> None:
    edit = Edit(group[0].node)
    edit.graph.insert_before(group[0].node, nodes)
    edit.made += nodes
    for product, before, after in zip(group, old, new, strict=True):
        edit.replace(before, after, also=[product.node])


def _groups(graph: ir.Graph) -> list[list[Product]]:
    """The products of the graph whose weights are stored in integers, by what they multiply."""
    groups: dict[ir.Value, list[Product]] = {}
    for product in products.products(graph):
        groups.setdefault(product.x.value, []).append(product)
    return list(groups.values())


def _ids(model: ir.Model) -> ir.Value | None:
    """The token ids [batch, tokens] of a decoder with a key-value cache."""
    ids = by_name(model.graph.inputs).get("input_ids")
    has_shape = ids is not None and ids.shape is not None and ids.shape.rank() == 2
    if has_shape and past_inputs(model):
        return ids
    return None
