"""Spell ``Attention`` in matrix products and a softmax again."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, Outcome, Site, Stage
from bct_onnx.forms import older
from bct_onnx.forms.attention import heads_of


@dataclasses.dataclass(frozen=True)
class SpellAttention(NodePass):
    """Spell every standard ``Attention`` in matrix products and a softmax.

    Why:
        Most accelerators have no kernel for the operator of opset 23, and many recognise its products by themselves.

    Before/after:
        ``Attention(q, k, v, mask, scale)`` becomes ``MatMul(Softmax(MatMul(q * scale, kᵀ) + mask), v)``. Heads in one
        axis are split and joined by ``Reshape`` and ``Transpose``; keys of grouped heads are repeated; keys and values
        of a cache come first by ``Concat``.

    Declines:
        A cache that is filled in part, an output of the scores, a cap on them, and heads of unknown number or size.

    Options:
        None.

    Promise:
        Exact up to float rounding. A row whose keys are all masked gives 0, as it does in ``Attention``: where no
        `guard-attention` ran before, that is written as well.
    """

    name: ClassVar[str] = "spell-attention"
    stage: ClassVar[Stage] = Stage.LOWER
    operators: ClassVar[tuple[str, ...]] = ("Attention",)

    def rewrite(self, node: ir.Node, model: ir.Model) -> Outcome:
        """Write one ``Attention`` out."""
        name, heads = node.name or "Attention", heads_of(node, 0)
        reason = older.attention(model, node)
        if reason:
            return Declined(name, reason)
        return Site(name, ("Attention",), f"{heads} heads")
