"""Queries that see no key get zeros in every runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, Outcome, Site, Stage
from bct_onnx.forms.hidden_rows import MASK, Hidden, guard, hidden_rows, may_be_hidden
from bct_onnx.graph.neighbours import operand


@dataclasses.dataclass(frozen=True)
class GuardAttention(NodePass):
    """Give zeros to queries of ``Attention`` that see no key, in every runtime.

    Why:
        The padding of a text that is padded on the left sees nothing. What ``Attention`` gives there differs: NaN in
        ONNX Runtime 1.23, which reaches all tokens in the next layer, a mean in 1.24 and 1.25, zeros in 1.32. Exports
        that spelled attention out had a guard against NaN, which `fuse-attention` has taken along.

    Before/after:
        ``Attention(q, k, v, mask)`` becomes ``Where(nothing seen, 0, Attention(q, k, v, mask))``. What is seen is
        found once for all layers under one mask, by the greatest number in each of its rows.

    Declines:
        Masks of unknown rank, and causal ones behind a cache. Masks that never hide by -inf, or that no input of the
        model decides, need no guard.

    Options:
        None.

    Promise:
        Exact: ONNX Runtime 1.32 gives these zeros by itself.
    """

    name: ClassVar[str] = "guard-attention"
    stage: ClassVar[Stage] = Stage.LOWER
    operators: ClassVar[tuple[str, ...]] = ("Attention",)

    def rewriter(self, model: ir.Model, nodes: Sequence[ir.Node]) -> Callable[[ir.Node], Outcome]:
        """Layers share their masks."""
        made: Hidden = {}
        return lambda node: _guarded(node, made)


def _guarded(node: ir.Node, made: Hidden) -> Outcome:
    if not may_be_hidden(operand(node, MASK)):
        return None
    name = node.name or node.outputs[0].name or "Attention"
    hidden = hidden_rows(node, made)
    if isinstance(hidden, str):
        return Declined(name, hidden)
    guard(node, hidden)
    return Site(name, ("Attention",), "zeros where nothing is seen")
