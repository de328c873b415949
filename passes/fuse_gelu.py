"""Any spelling of GELU, QuickGELU or SiLU becomes one canonical form."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, Outcome, Site
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.known import dtypes_of
from bct_onnx.graph.neighbours import provided
from bct_onnx.graph.recognise import Pointwise, pointwise

_CANONICAL = {"silu": ("Sigmoid", "Mul"), "quick-gelu": ("Mul", "Sigmoid", "Mul")}


@dataclasses.dataclass(frozen=True)
class FuseGelu(NodePass):
    """Lift every spelling of GELU to ``Gelu``, and of QuickGELU and SiLU to a ``Sigmoid`` times its input.

    Why:
        A GELU is five to nine nodes, spelled differently by every exporter. As one node it runs in one pass over the
        data instead of five, and later passes can replace it by an integer kernel.

    Before/after:
        ``x * 0.5 * (1 + Erf(x / 1.4142))`` and its variants become ``Gelu(x)``, and
        ``0.5 * x * (1 + Tanh(0.79788 * (x + 0.044715 * x**3)))`` becomes ``Gelu(x, approximate="tanh")``.
        ``x / (1 + Exp(-x))`` becomes ``x * Sigmoid(x)`` (SiLU has an operator only from opset 24 on), and QuickGELU
        becomes ``x * Sigmoid(1.702 * x)``. The candidate is run on sample points, so operand order, the place of the
        0.5, ``Pow`` or ``Mul``, casts and the precision of the constants do not matter.

    Declines:
        A function of the form ``x * f(x)`` that is none of these: the reason names the nearest one and the largest
        difference. An intermediate value that is used elsewhere. Casts inside of a SiLU or QuickGELU.

    Options:
        None.

    Promise:
        Exact up to float rounding. The tolerance (1e-5; 1e-4 for float16, 2e-4 for bfloat16 constants) is far below the
        difference of the two GELUs, 5e-4.

    >>> model = ir.from_onnx_text('''<ir_version: 10, opset_import: ["": 23]> g (float[n] x) => (float[n] y)
    ...     <float half = {0.5}, float one = {1.0}, float root = {1.4142135}>
    ...     { d = Div (x, root)  e = Erf (d)  f = Add (one, e)  m = Mul (x, f)  y = Mul (half, m) }''')
    >>> [node.op_type for node in FuseGelu()(model).model.graph]
    ['Gelu']
    """

    name: ClassVar[str] = "fuse-gelu"
    operators: ClassVar[tuple[str, ...]] = ("Erf", "Tanh", "Sigmoid", "Exp")

    def rewrite(self, node: ir.Node, model: ir.Model) -> Outcome:
        """Look at the function around one ``Erf``, ``Tanh``, ``Sigmoid`` or ``Exp``."""
        candidate = pointwise(node)
        if candidate is None:
            if node.op_type != "Erf":  # which is hardly used but for GELU
                return None
            return Declined(_label(node), "its result is not multiplied with its own input")
        if reason := _refusal(candidate):
            return Declined(_label(node), reason)
        if candidate.region.spelling == _CANONICAL.get(candidate.function):
            return None
        return _fuse(candidate)


def _refusal(candidate: Pointwise) -> str:
    if reason := candidate.region.refusal(candidate.function, candidate.exact, candidate.deviation):
        return reason
    if candidate.function in _CANONICAL and candidate.region.casts:
        return f"is {candidate.function}, but changes its type on the way"
    return ""


def _fuse(candidate: Pointwise) -> Site:
    region, (x,) = candidate.region, candidate.region.inputs
    edit = Edit(region.nodes[-1])
    if candidate.function == "gelu":
        y = edit.op("Gelu", x)
    elif candidate.function == "gelu-tanh":
        y = edit.op("Gelu", x, approximate="tanh")
    elif candidate.function == "silu":
        y = edit.op("Mul", x, edit.op("Sigmoid", x))
    else:
        dtype = provided(dtypes_of(region.constants))[0]
        scaled = edit.op("Mul", x, edit.scalar("quick_gelu_alpha", 1.702, dtype), name="scaled")
        y = edit.op("Mul", x, edit.op("Sigmoid", scaled))
    edit.replace(region.output, y, also=region.nodes[:-1])
    return Site(edit.made[-1].name or "", region.spelling, candidate.function)


def _label(node: ir.Node) -> str:
    return node.name or node.outputs[0].name or node.op_type
