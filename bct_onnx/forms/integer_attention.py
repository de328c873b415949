"""What an attention between codes reads: heads that were split from one axis, and a mask of which keys count."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from bct_onnx.forms import packed
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.neighbours import made_by, only_use


@dataclasses.dataclass(frozen=True)
class Heads:
    """Codes of queries, keys or values, and the number of heads that their last axis holds; 0 where heads are apart."""

    codes: ir.Value | None
    heads: int

    @classmethod
    def of(cls, value: ir.Value | None) -> Heads:
        """What heads were split from: ``Transpose(Reshape(codes, [0, 0, heads, size]))``, maybe repeated in groups."""
        repeated = _chain(value, "Reshape", "Expand", "Unsqueeze")
        reshape = _chain(value if repeated is None else repeated.inputs[0], "Transpose", "Reshape")
        if reshape is None:
            return cls(value, 0)
        shape = tensors.small_constant(reshape.inputs[1])
        if shape is None or len(shape) != 4 or list(shape[:2]) != [0, 0]:
            return cls(value, 0)
        return cls(reshape.inputs[0], int(shape[2]))


def _chain(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The first of the standard operators that lead to ``value``, the types of which are given from the last one on."""
    node = None
    for op_type in op_types:
        node = made_by(value, op_type)
        if node is None:
            return None
        value = node.inputs[0]
    return node


def merging(node: ir.Node) -> ir.Node | None:
    """The Reshape that puts heads beside each other again, where ``Reshape(Transpose(y))`` is all that follows."""
    for op_type in ("Transpose", "Reshape"):
        use = only_use(node.outputs[0])
        if use is None or use[0].op_type != op_type or use[1]:
            return None
        node = use[0]
    return node


def shown(keep: ir.Value | None) -> tuple[ir.Value | None, bool]:
    """What there is to ``keep`` beside the keys up to each query, and whether it is those alone that may count."""
    if _chain(keep, "Cast", "Trilu") is not None:
        return None, True
    product = _chain(keep, "Mul")
    if product is None:
        return keep, False
    causal = [_chain(side, "Cast", "Trilu") is not None for side in product.inputs]
    if all(causal) or not any(causal):
        return keep, False
    return product.inputs[causal.index(False)], True


def mask(edit: Edit, keep: ir.Value) -> ir.Value:
    """The mask that the uint8 ``keep`` was made from; True where a key counts, where there is none."""
    greater = _chain(keep, "Cast", "Greater")
    if greater is not None and greater.inputs[0] is not None:
        return greater.inputs[0]
    source, _ = packed.uncast(keep)
    if source is not None and source is not keep and source.dtype == ir.DataType.BOOL:
        return source
    kept = edit.op("Cast", keep, to=ir.DataType.BOOL, name="kept")
    kept.dtype = ir.DataType.BOOL
    return kept
