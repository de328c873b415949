"""ONNX Runtime's own operators become standard ones again."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Outcome, Pass, Site
from bct_onnx.errors import InputModelError
from bct_onnx.graph import contrib, opset, shapes
from bct_onnx.graph.contrib import Lift, Made


@dataclasses.dataclass(frozen=True)
class LiftContrib(Pass):
    """Lift the operators that ONNX Runtime's optimizers fuse to standard ones.

    Why:
        ONNX Runtime's transformer optimizer, optimum's levels O1 to O4, sessions that save their optimized model and
        the builder of onnxruntime-genai write operators that ONNX does not have. Tables and weights inside of them,
        and what surrounds them, would not be found by later passes, and no other runtime takes them.

    Before/after:
        ``SkipLayerNormalization(x, skip, gamma, beta, bias)`` becomes ``LayerNormalization(x + skip + bias, gamma,
        beta)``, ``Attention`` with one weight for queries, keys and values a product, a split and a standard
        ``Attention``. So do the other normalizations, ``EmbedLayerNormalization``, ``MultiHeadAttention`` with its
        masks and cache, ``GroupQueryAttention`` where it is not kept, the activations with a bias, ``FusedMatMul``,
        ``FusedGemm``, ``FusedConv`` and ``RotaryEmbedding``. Masks that layers share are made once.

    Declines:
        What ``keep`` names; forms that ONNX Runtime's CPU provider itself refuses; caches that are buffers; operators
        of other kinds. They stay as they are. A model saved with convolutions in a processor's own layout is an error.

    Options:
        keep: Operators that stay; by default ``GroupQueryAttention``, whose cache may be a buffer that grows in place
            and which the runtime has a fast kernel for. ``keep=`` lifts it as well, as ``--target portable`` does.

    Promise:
        Exact up to float rounding.

    >>> model = ir.from_onnx_text('''<ir_version: 10, opset_import: ["": 23, "com.microsoft": 1]>
    ...     g (float[b,s,4] x, float[4] w) => (float[b,s,4] y) { y = com.microsoft.BiasGelu (x, w) }''')
    >>> [node.op_type for node in LiftContrib()(model).model.graph]
    ['Add', 'Gelu']
    """

    name: ClassVar[str] = "lift-contrib"

    keep: tuple[str, ...] = ("GroupQueryAttention",)

    def apply(self, model: ir.Model) -> Applied:
        """Lift every node of ONNX Runtime's own, subgraphs included."""
        outcomes: list[Outcome] = []
        shared: Made = {}
        for node in list(model.graph.all_nodes()):
            if node.domain in contrib.LAYOUTS:
                raise _in_a_layout(node)
            if contrib.is_own(node):
                outcomes.append(self._lift(model, node, shared))
        applied = Applied.of(model, outcomes)
        if applied.sites:
            shapes.infer(model)
        return applied

    def _lift(self, model: ir.Model, node: ir.Node, shared: Made) -> Site | Declined:
        name = node.name or node.op_type
        rule = contrib.RULES.get(node.op_type)
        if node.op_type in self.keep:
            return Declined(name, f"{node.op_type} is kept")
        if rule is None:
            return Declined(name, f"{node.op_type} is none that is lifted")
        if node.op_type in contrib.NEEDS and (reason := opset.lacks(model, contrib.NEEDS[node.op_type])):
            return Declined(name, f"{node.op_type}: {reason}")
        lift = Lift(node, shared)
        results = rule(lift)
        if isinstance(results, str):
            return Declined(name, f"{node.op_type}: {results}")
        for old, new in zip(list(node.outputs), results, strict=False):
            if new is not None and (old.uses() or old.is_graph_output()):
                lift.replace(old, new)
        return Site(lift.made[-1].name or name, (node.op_type,))


def _in_a_layout(node: ir.Node) -> InputModelError:
    return InputModelError(
        f"operator {node.op_type} of {node.domain} is in the layout of one kind of processor",
        where=f"node '{node.name}'",
        why="the model was saved by a session with all optimizations, which also change layouts",
        fix="save it with graph_optimization_level ORT_ENABLE_EXTENDED or ORT_ENABLE_BASIC, or start from the export",
    )
