"""A softmax spelled out in exponentials and their sum becomes one ``Softmax``."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, Outcome, Site
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.recognise import Softmax, softmax


@dataclasses.dataclass(frozen=True)
class FuseSoftmax(NodePass):
    """Lift every spelling of a softmax to ``Softmax``, and of its logarithm to ``LogSoftmax``.

    Why:
        Spelled out it is up to five nodes and as many passes over the largest tensor of the model. As one operator it
        is one pass, ``fuse-attention`` finds it, and later passes can replace it by an integer kernel.

    Before/after:
        ``Exp(x - max(x)) / sum(Exp(x - max(x)))``, with or without the subtraction, becomes ``Softmax(x, axis)``;
        ``x - max(x) - Log(sum(Exp(x - max(x))))`` becomes ``LogSoftmax(x, axis)``. The candidate is run on sample rows,
        some of them masked with -inf in part or in whole, and compared with the formula. A guard that turns the NaN of
        wholly masked rows into zeros is not part of the formula and stays behind the new node.

    Declines:
        A quotient of exponentials and their sum that is not this formula (a constant in the denominator): the reason
        says how far it is off. An intermediate value that is used elsewhere.

    Options:
        None.

    Promise:
        Exact up to float rounding. Where the spelling does not subtract the maximum and an exponential overflows, it
        gives NaN and ``Softmax`` gives the right value.

    >>> model = ir.from_onnx_text('''<ir_version: 10, opset_import: ["": 23]> g (float[n,4] x) => (float[n,4] y)
    ...     <int64[1] last = {-1}> { e = Exp (x)  s = ReduceSum (e, last)  y = Div (e, s) }''')
    >>> [node.op_type for node in FuseSoftmax()(model).model.graph]
    ['Softmax']
    """

    name: ClassVar[str] = "fuse-softmax"
    operators: ClassVar[tuple[str, ...]] = ("Exp",)

    def rewrite(self, node: ir.Node, model: ir.Model) -> Outcome:
        """Look at the function around one ``Exp``."""
        candidate = softmax(node)
        if candidate is None:
            return None
        if reason := candidate.region.refusal(candidate.kind, candidate.exact, candidate.deviation):
            return Declined(node.name or node.outputs[0].name or "Exp", reason)
        return _fuse(candidate)


def _fuse(candidate: Softmax) -> Site:
    region = candidate.region
    edit = Edit(region.nodes[-1])
    y = edit.op(candidate.kind, region.inputs[0], axis=candidate.axis)
    edit.replace(region.output, y, also=region.nodes[:-1])
    return Site(edit.made[-1].name or "", region.spelling, f"axis {candidate.axis}")
