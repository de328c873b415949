"""Any spelling of GELU, QuickGELU or SiLU becomes one canonical form."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.recognise import Pointwise, pointwise

_ANCHORS = ("Erf", "Tanh", "Sigmoid", "Exp")
_CANONICAL = {"silu": ("Sigmoid", "Mul"), "quick-gelu": ("Mul", "Sigmoid", "Mul")}


@dataclasses.dataclass(frozen=True)
class FuseGelu(Pass):
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

    def apply(self, model: ir.Model) -> Applied:
        """Look at every ``Erf``, ``Tanh``, ``Sigmoid`` and ``Exp``, subgraphs included."""
        sites: list[Site] = []
        declined: list[Declined] = []
        for node in [node for node in model.graph.all_nodes() if node.op_type in _ANCHORS and node.domain == ""]:
            if node.graph is None:  # went with a neighbour: a tanh spelled with two exponentials
                continue
            found = pointwise(node)
            if found is None:
                if node.op_type == "Erf":
                    declined.append(Declined(_label(node), "its result is not multiplied with its own input"))
            elif reason := _refusal(found):
                declined.append(Declined(_label(node), reason))
            elif found.region.spelling != _CANONICAL.get(found.function):
                sites.append(_fuse(found))
        return Applied(model, sites, declined)


def _refusal(found: Pointwise) -> str:
    if not found.exact:
        return f"nearest function is {found.function}, which differs by up to {found.deviation:.2g}"
    if found.region.escapes:
        return f"is {found.function}, but the intermediate value '{found.region.escapes[0].name}' is used elsewhere"
    if found.function in _CANONICAL and found.region.casts:
        return f"is {found.function}, but changes its type on the way"
    return ""


def _fuse(found: Pointwise) -> Site:
    region, (x,) = found.region, found.region.inputs
    last = region.nodes[-1]
    edit = Edit(last)
    if found.function == "gelu":
        y = edit.op("Gelu", x)
    elif found.function == "gelu-tanh":
        y = edit.op("Gelu", x, approximate="tanh")
    elif found.function == "silu":
        y = edit.op("Mul", x, edit.op("Sigmoid", x))
    else:
        dtype = next(value.dtype for value in region.constants if value.dtype)
        scaled = edit.op("Mul", x, edit.scalar("quick_gelu_alpha", 1.702, dtype), name="scaled")
        y = edit.op("Mul", x, edit.op("Sigmoid", scaled))
    edit.replace(region.output, y, also=region.nodes[:-1])
    return Site(edit.made[-1].name or "", region.spelling, found.function)


def _label(node: ir.Node) -> str:
    return node.name or node.outputs[0].name or node.op_type
