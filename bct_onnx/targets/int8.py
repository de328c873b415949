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

from bct_onnx.forms.int8 import NARROW, code_range, value_range
from bct_onnx.graph import operators
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
        parts = [f"{self.narrow} with weights within 64"] if self.narrow else []
        parts += [f"{self.unsigned} by kernels that widen first"] if self.unsigned else []
        return f"int8 products exact on every CPU: {', '.join(parts)}" if parts else ""

    def here(self, features: CpuFeatures) -> str:
        """What larger weights do on a CPU; empty if there are none."""
        exact = {"vnni", "amx", "dotprod", "i8mm"} & set(features.flags or ())
        if not self.wide:
            return ""
        return "exact on this CPU" if exact else "this CPU is one of these, or does not tell"

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
        if _kind(right) in (ir.DataType.UINT8, ir.DataType.UINT4) or left == ir.DataType.INT8:
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
        operator = operators.of(node)
        activation, weight = operator.place("activation"), operator.place("weight")
        is_integer = operator.kind in ("integer product", "integer convolution")
        if is_integer and activation is not None and weight is not None and len(node.inputs) > weight:
            left, right = node.inputs[activation], node.inputs[weight]
            dynamic = node.op_type.startswith("DynamicQuantize")
            kind = ir.DataType.UINT8 if dynamic else _kind(left)
            if right is not None and _is_constant(right):
                yield node.name or node.op_type, kind, right
        elif node.op_type in ("MatMul", "Gemm", "Conv") and not node.domain:
            found = [_decoded(value) for value in node.inputs[:2]]
            if found[0] is not None and found[1] is not None and _is_constant(found[1]):
                yield node.name or node.op_type, _kind(found[0]), found[1]


def _decoded(value: ir.Value | None) -> ir.Value | None:
    """The 8-bit codes behind a value, with one scale for all or per channel, as ONNX Runtime's fusions want it."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "DequantizeLinear" or "block_size" in node.attributes:
        return None
    codes = node.inputs[0]
    return codes if _kind(codes) in (ir.DataType.INT8, ir.DataType.UINT8) else None


def _kind(value: ir.Value | None) -> ir.DataType | None:
    """The type of a value, also of one that a pass has made without saying it."""
    node = value.producer() if value is not None else None
    if value is None or value.dtype is not None or node is None:
        return value.dtype if value is not None else None
    if node.op_type == "Cast":
        return ir.DataType(node.attributes["to"].as_int())
    if node.op_type == "QuantizeLinear":
        stated = ir.DataType(node.attributes.get_int("output_dtype", 0) or ir.DataType.UINT8)
        return (_kind(node.inputs[2]) if len(node.inputs) > 2 else None) or stated
    return _kind(node.inputs[0]) if _moves(node) or node.op_type == "BitwiseXor" else None


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
    node = value.producer() if value is not None else None
    if node is None:
        return -_ANY, _ANY
    if node.op_type in ("Unpack", "UnpackPlanes"):
        offset = node.attributes["offset"].as_int()
        return -offset, (1 << node.attributes.get_int("bits", 3)) - 1 - offset
    if node.op_type in ("DecodeInt8", "DecodeInt8Offset"):
        codes = _span(node.inputs[0], code_range)
        factors, *zeros = (_span(one) for one in node.inputs[1:])
        low, high = (codes[0] - zeros[0][1], codes[1] - zeros[0][0]) if zeros else codes
        ends = [code * factor for code in (low, high) for factor in factors]
        return min(ends), max(ends)
    if _moves(node):
        spans = [_span(one) for one in (node.inputs if node.op_type == "Concat" else node.inputs[:1])]
        return min(low for low, _ in spans), max(high for _, high in spans)
    return -_ANY, _ANY


def _is_constant(value: ir.Value) -> bool:
    queue, seen = [value], {value}
    while queue:
        one = queue.pop()
        if one.is_initializer():
            continue
        node = one.producer()
        if node is None or not node.inputs:
            return False
        queue += [made for made in node.inputs if made is not None and made not in seen]
        seen.update(queue)
    return True
