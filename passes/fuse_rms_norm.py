"""A root-mean-square normalization spelled out becomes one ``RMSNormalization``."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Pass, Site
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.recognise import Norm, parameter
from passes.fuse_layer_norm import lift

_KIND = "RMSNormalization"


@dataclasses.dataclass(frozen=True)
class FuseRmsNorm(Pass):
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

    def apply(self, model: ir.Model) -> Applied:
        """Look at every ``ReduceMean``, subgraphs included."""
        return lift(model, _KIND, _fuse)


def _fuse(found: Norm) -> Site:
    region = found.region
    edit = Edit(region.nodes[-1])
    scale = parameter(edit, region, "rms_norm_scale", found.scale)
    y = edit.op(_KIND, region.inputs[0], scale, axis=-1, epsilon=found.epsilon, stash_type=1)
    edit.replace(region.output, y, also=region.nodes[:-1])
    return Site(edit.made[-1].name or "", region.spelling, f"epsilon {found.epsilon:.3g}")
