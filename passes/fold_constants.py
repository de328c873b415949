"""What depends on constants and fixed sizes alone becomes a constant."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Pass
from bct_onnx.forms.constants import LIMIT, fold


@dataclasses.dataclass(frozen=True)
class FoldConstants(Pass):
    """Evaluate what depends on constants and fixed sizes alone, and spell out computed shapes.

    Why:
        Exporters leave the arithmetic of shapes in the graph: a quarter of the nodes of a BERT may compute where to
        reshape to. They hide the operators that matter from the passes that look for them, and cost time in each run.

    Before/after:
        ``Sqrt(Cast(Slice(Shape(q), -1)))`` with a head size of 32 becomes the constant 5.657.
        ``Reshape(x, Concat(Gather(Shape(ids), 0), Gather(Shape(ids), 1), [12], [32]))`` becomes
        ``Reshape(x, [0, 0, 12, 32])`` where ``x`` has the batch and sequence dimensions of ``ids``. An ``If`` whose
        condition is a constant gives way to the branch that it takes.

    Declines:
        A result above ``limit`` (transposed weights, for one: quantization reads through the ``Transpose``). A weight
        that is used elsewhere as well: folding would store it twice. A graph output. Strings. Never touched: random
        operators, ``QuantizeLinear`` and ``DequantizeLinear``, loops, operators of other domains.

    Options:
        limit: Largest result in bytes.

    Promise:
        Exact: ONNX Runtime computes the constants as it would at run time. Dimensions of one name are taken to have one
        size, as ONNX defines it: ``input_ids[batch, sequence]`` and ``attention_mask[batch, sequence]`` go together.

    >>> model = ir.from_onnx_text('''<ir_version: 10, opset_import: ["": 23]> g (float[n, 4] x) => (float[n, 4] y)
    ...     { s = Shape <start = 1> (x)  f = Cast <to = 1> (s)  r = Sqrt (f)  y = Div (x, r) }''')
    >>> folded = FoldConstants()(model)
    >>> [node.op_type for node in model.graph], folded.sites[0].before
    (['Div'], ('Shape', 'Cast', 'Sqrt'))
    """

    name: ClassVar[str] = "fold-constants"

    limit: int = LIMIT

    def apply(self, model: ir.Model) -> Applied:
        """Walk every node once, subgraphs included, in topological order."""
        sites, declined = fold(model, self.limit)
        return Applied(model, sites, declined)
