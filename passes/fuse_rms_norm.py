"""A root-mean-square normalization spelled out becomes one ``RMSNormalization``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import NodePass, Outcome
from bct_onnx.forms.normalizations import Normalizations


@dataclasses.dataclass(frozen=True)
class FuseRmsNorm(NodePass):
    """Lift every spelling of an RMS normalization over the last axis to ``RMSNormalization``.

    Why:
        Llama, T5, Gemma, Qwen and Mistral spell it out in six or more nodes. As one operator it is one pass over the
        data, and later passes can replace it by an integer kernel.

    Before/after:
        ``x / Sqrt(mean(x²) + epsilon) * scale`` becomes ``RMSNormalization(x, scale, axis=-1, epsilon)``. The scale may
        be missing or written ``1 + w``; ``Pow`` or ``Mul``, ``Div`` or ``Reciprocal``, and casts to float32 around it
        do not matter, because epsilon and scale are read off the behaviour of the nodes and then compared with the
        formula on sample rows.

    Declines:
        A function of the form ``x * f(mean(x²))`` that is not this formula: the reason says how far it is off. An
        intermediate value that is used elsewhere. An unknown number of columns. Models that stay below opset 23 (see
        normalize).

    Options:
        None.

    Promise:
        Exact up to float rounding. In a float16 model the rows are still normalized in float32 (``stash_type`` 1).

    >>> model = ir.from_onnx_text('''<ir_version: 10, opset_import: ["": 23]> g (float[n,4] x) => (float[n,4] y)
    ...     <int64[1] last = {-1}, float epsilon = {1e-5}, float[4] w = {1.0, 2.0, 3.0, 4.0}>
    ...     { s = Mul (x, x)  v = ReduceMean (s, last)  e = Add (v, epsilon)  q = Sqrt (e)  r = Reciprocal (q)
    ...       n = Mul (x, r)  y = Mul (w, n) }''')
    >>> [node.op_type for node in FuseRmsNorm()(model).model.graph]
    ['RMSNormalization']
    """

    name: ClassVar[str] = "fuse-rms-norm"
    operators: ClassVar[tuple[str, ...]] = ("ReduceMean",)

    def rewriter(self, model: ir.Model, nodes: Sequence[ir.Node]) -> Callable[[ir.Node], Outcome]:
        """Look at the function around each ``ReduceMean``."""
        return Normalizations(model, "RMSNormalization")
