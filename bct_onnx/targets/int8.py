"""Integer products that are not exact on every CPU.

x86 CPUs without VNNI multiply unsigned by signed bytes with an instruction that adds pairs of products in saturating
int16 (`vpmaddubsw`): 2 * 255 * w has to stay below 2**15, which it does up to |w| = 64. Larger weights give wrong sums
there, without a message. Unsigned weights take another way, which widens first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import onnx_ir as ir

from bct_onnx.forms import packed
from bct_onnx.forms.int8 import NARROW, code_range, value_range
from bct_onnx.graph import operators
from bct_onnx.graph.neighbours import producer, reached, sources
from bct_onnx.runtime.latency import CpuFeatures

_ANY = 128


@dataclasses.dataclass(frozen=True)
class Products:
    """The products of integer weights in a model.

    Attributes:
        narrow: How many have int8 weights within 64.
        unsigned: How many have unsigned weights, or signed activations.
        wide: Names of those with larger int8 weights, and the magnitude that these may have.
    """

    narrow: int
    unsigned: int
    wide: tuple[tuple[str, int], ...]

    @property
    def said(self) -> str:
        """One line on them; empty if there are none."""
        total = self.narrow + self.unsigned + len(self.wide)
        if self.wide:
            return f"{len(self.wide)} of {total} int8 products saturate on CPUs without VNNI: weights beyond 64"
        if not total:
            return ""
        parts: list[str] = []
        if self.narrow:
            parts.append(f"{self.narrow} with weights within 64")
        if self.unsigned:
            parts.append(f"{self.unsigned} by kernels that widen first")
        return f"int8 products exact on every CPU: {', '.join(parts)}"

    def here(self, features: CpuFeatures) -> str:
        """What larger weights do on a CPU; empty if there are none."""
        exact = {"vnni", "amx", "dotprod", "i8mm"} & set(features.flags or ())
        if not self.wide:
            return ""
        if exact:
            return "exact on this CPU"
        return "this CPU is one of these, or does not tell"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self) | {"exact_everywhere": not self.wide}


def products(model: ir.Model) -> Products:
    """Look at every product of an unsigned activation and an int8 weight, also those that ONNX Runtime fuses.

    Weights are followed through what only moves them and through the functions that decode them; what cannot be
    followed counts as up to 128.
    """
    narrow = unsigned = 0
    wide: list[tuple[str, int]] = []
    seen: dict[ir.Value, int] = {}
    for name, left, right in _integer_products(model):
        if _dtype(right) in (ir.DataType.UINT8, ir.DataType.UINT4) or left == ir.DataType.INT8:
            unsigned += 1
            continue
        if right not in seen:
            seen[right] = magnitude(right)
        if seen[right] <= NARROW:
            narrow += 1
        else:
            wide.append((name, seen[right]))
    return Products(narrow, unsigned, tuple(wide))


def _integer_products(model: ir.Model) -> Iterator[tuple[str, ir.DataType | None, ir.Value]]:
    """Products with a constant integer weight: the node's name, the type of the activation's codes, and the weight."""
    for node in model.graph.all_nodes():
        if operators.kind(node) in ("integer product", "integer convolution"):
            product = _computed_in_integers(node)
        elif operators.identifier(node) in ("MatMul", "Gemm", "Conv"):
            product = _fused_to_integers(node)
        else:
            continue
        if product is not None and _is_constant(product[1]):
            yield node.name or node.op_type, *product


def _computed_in_integers(node: ir.Node) -> tuple[ir.DataType | None, ir.Value] | None:
    """The type of the activation's codes and the weight of an operator that multiplies integers."""
    operator = operators.of(node)
    activation, weight = operator.place("activation"), operator.place("weight")
    if activation is None or weight is None or len(node.inputs) <= weight:
        return None
    codes = node.inputs[weight]
    if codes is None:
        return None
    if node.op_type.startswith("DynamicQuantize"):
        return ir.DataType.UINT8, codes
    return _dtype(node.inputs[activation]), codes


def _fused_to_integers(node: ir.Node) -> tuple[ir.DataType | None, ir.Value] | None:
    """The same of a product of two decoded inputs, which ONNX Runtime makes one of integers."""
    activation, weight = _decoded(node.inputs[0]), _decoded(node.inputs[1])
    if activation is None or weight is None:
        return None
    return _dtype(activation), weight


def _decoded(value: ir.Value | None) -> ir.Value | None:
    """The 8-bit codes behind a value, with one scale for all or per channel, as ONNX Runtime's fusions want it."""
    node = producer(value)
    if node is None or node.op_type != "DequantizeLinear" or "block_size" in node.attributes:
        return None
    codes = node.inputs[0]
    if _dtype(codes) not in (ir.DataType.INT8, ir.DataType.UINT8):
        return None
    return codes


def _dtype(value: ir.Value | None) -> ir.DataType | None:
    """The type of a value, also of one that a pass has made without saying it."""
    if value is None:
        return None
    node = value.producer()
    if value.dtype is not None or node is None:
        return value.dtype
    if node.op_type == "Cast":
        return ir.DataType(node.attributes["to"].as_int())
    if node.op_type == "QuantizeLinear":
        declared = _dtype(next(iter(node.inputs[2:]), None))
        return declared or ir.DataType(node.attributes.get_int("output_dtype", 0) or ir.DataType.UINT8)
    if _moves(node) or node.op_type == "BitwiseXor":
        return _dtype(node.inputs[0])
    return None


def _moves(node: ir.Node) -> bool:
    """Whether a node gives the integers of its inputs, at other places or in another type."""
    return operators.kind(node) in (*operators.MOVES, "cast", "join")


def magnitude(value: ir.Value) -> int:
    """A bound on the magnitude of a constant's integers, from the constants that it is made from."""
    low, high = _span(value)
    return max(abs(low), abs(high))


def _span(value: ir.Value | None, read: Callable[[ir.Value], tuple[int, int]] = value_range) -> tuple[int, int]:
    if value is not None and value.is_initializer() and value.const_value is not None:
        return read(value)
    node = producer(value)
    if node is None:
        return -_ANY, _ANY
    if node.op_type in ("Unpack", "UnpackPlanes", "UnpackSlices"):
        return packed.code_range(node.outputs[0])
    if node.op_type in ("DecodeInt8", "DecodeInt8Offset"):
        return _decoded_span(node)
    if not _moves(node):
        return -_ANY, _ANY
    sources = node.inputs[:1]
    if operators.kind(node) == "join":
        sources = node.inputs
    lows, highs = zip(*map(_span, sources), strict=True)
    return min(lows), max(highs)


def _decoded_span(node: ir.Node) -> tuple[int, int]:
    """What codes, perhaps less their zero points, give times their multipliers."""
    low, high = _span(node.inputs[0], code_range)
    if len(node.inputs) > 2:
        least, greatest = _span(node.inputs[2])
        low, high = low - greatest, high - least
    least, greatest = _span(node.inputs[1])
    ends = (low * least, low * greatest, high * least, high * greatest)
    return min(ends), max(ends)


def _is_constant(value: ir.Value) -> bool:
    """Whether a value is computed from initializers alone."""
    return all(source.is_initializer() or sources(source) for source in reached([value], sources))
