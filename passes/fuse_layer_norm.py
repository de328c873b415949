"""A layer normalization spelled out in means, squares and a square root becomes one ``LayerNormalization``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import NodePass, Outcome
from bct_onnx.forms.normalizations import Normalizations


@dataclasses.dataclass(frozen=True)
class FuseLayerNorm(NodePass):
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
    operators: ClassVar[tuple[str, ...]] = ("ReduceMean",)

    def rewriter(self, model: ir.Model, nodes: Sequence[ir.Node]) -> Callable[[ir.Node], Outcome]:
        """Look at the function around each ``ReduceMean``."""
        return Normalizations(model, "LayerNormalization")
