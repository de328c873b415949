"""A layer normalization spelled out in means, squares and a square root becomes one ``LayerNormalization``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site
from bct_onnx.graph import opset
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.recognise import Norm, Region, norm, parameter

_KIND = "LayerNormalization"


@dataclasses.dataclass(frozen=True)
class FuseLayerNorm(Pass):
    """Lift every spelling of a layer normalization over the last axis to ``LayerNormalization``.

    Why:
        Spelled out it is nine nodes and seven passes over the data, and nothing tells that they belong together. As
        one operator it is one pass, and later passes can replace it by an integer kernel.

    Before/after:
        ``(x - mean(x)) / Sqrt(mean((x - mean(x))²) + epsilon) * scale + bias`` becomes
        ``LayerNormalization(x, scale, bias, axis=-1, epsilon)``. Scale and bias may be missing; ``Pow`` or ``Mul``,
        ``Div``, ``Reciprocal`` or ``Pow(-0.5)``, and casts to float32 around it do not matter, because epsilon, scale
        and bias are read off the behaviour of the nodes and then compared with the formula on sample rows.

    Declines:
        A function of the form ``x * f(mean(x))`` that is not this formula (epsilon outside of the square root,
        another power, another axis): the reason says how far it is off. An intermediate value that is used
        elsewhere. An unknown number of columns. A scale or bias that widens a single column: an ``Expand`` does that
        first, since ONNX Runtime would fuse the nodes and then not run them.

    Options:
        None.

    Promise:
        Exact up to float rounding. In a float16 model the rows are still normalized in float32 (``stash_type`` 1).

    >>> model = ir.from_onnx_text('''<ir_version: 10, opset_import: ["": 23]> g (float[n,4] x) => (float[n,4] y)
    ...     <int64[1] last = {-1}, float two = {2.0}, float epsilon = {1e-12}, float[4] w = {1.0, 2.0, 3.0, 4.0}>
    ...     { m = ReduceMean (x, last)  c = Sub (x, m)  s = Pow (c, two)  v = ReduceMean (s, last)
    ...       e = Add (v, epsilon)  r = Sqrt (e)  d = Div (c, r)  y = Mul (d, w) }''')
    >>> [node.op_type for node in FuseLayerNorm()(model).model.graph]
    ['LayerNormalization']
    """

    name: ClassVar[str] = "fuse-layer-norm"

    def apply(self, model: ir.Model) -> Applied:
        """Look at every ``ReduceMean``, subgraphs included."""
        return lift(model, _KIND, _fuse)


def lift(model: ir.Model, kind: str, fuse: Callable[[Norm], Site]) -> Applied:
    """Give ``fuse`` each region around a ``ReduceMean`` that behaves as the normalization ``kind``; decline others."""
    sites: list[Site] = []
    declined: dict[ir.Value, Declined] = {}
    lacking = opset.lacks(model, kind)
    for node in [node for node in model.graph.all_nodes() if node.op_type == "ReduceMean" and node.domain == ""]:
        found = norm(node, kind) if node.graph is not None else None
        if found is None:
            continue
        exact = found.exact and not found.trouble
        if exact and not lacking:
            sites.append(fuse(found))
        elif not exact and (apart := _kept_apart(found.region, kind)) is not None:
            sites.append(apart)
        else:
            output = found.region.output
            declined[output] = Declined(output.name or kind, lacking or found.refusal)
    return Applied(model, sites, list(declined.values()))


def _kept_apart(region: Region, kind: str) -> Site | None:
    """Widen one column by an ``Expand`` where a scale or a bias would; None where none does.

    ONNX Runtime takes such nodes for the operator as well, whose scale may not widen, and then cannot run them.
    """
    for node in region.nodes:
        for index, value in enumerate(node.inputs):
            widths = {width for other in node.inputs if other in region.constants and (width := _columns(other)) != 1}
            if value is None or value in region.constants or _columns(value) != 1 or len(widths) != 1:
                continue
            edit = Edit(node)
            wide = edit.op("Expand", value, edit.shape("widened", [widths.pop()]))
            wide.type = value.type
            node.replace_input_with(index, wide)
            return Site(node.name or "", (node.op_type,), f"widens one column: expanded before, so no {kind}")
    return None


def _columns(value: ir.Value | None) -> int:
    """The size of the last dimension; 0 if it is unknown, 1 for a single number."""
    if value is None or value.shape is None:
        return 0
    last = value.shape[-1] if value.shape.rank() else 1
    return last if isinstance(last, int) else 0


def _fuse(found: Norm) -> Site:
    region = found.region
    edit = Edit(region.nodes[-1])
    scale = parameter(edit, region, "layer_norm_scale", found.scale)
    bias = [parameter(edit, region, "layer_norm_bias", found.bias)] if np.any(found.bias) else []
    y = edit.op(_KIND, region.inputs[0], scale, *bias, axis=-1, epsilon=found.epsilon, stash_type=1)
    edit.replace(region.output, y, also=region.nodes[:-1])
    return Site(edit.made[-1].name or "", region.spelling, f"epsilon {found.epsilon:.3g}")
