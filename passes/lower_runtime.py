"""Write what an older ONNX Runtime has no kernels for in operators that it has."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.errors import InputModelError, UsageError
from bct_onnx.forms import nibbles, older, wide
from bct_onnx.graph import kernels, opset, runtimes, shapes
from bct_onnx.graph.kernels import Runtime


@dataclasses.dataclass(frozen=True)
class LowerRuntime(Pass):
    """Write operators that an older ONNX Runtime lacks in others, and bring the model to an opset that it loads.

    Why:
        Products ship with the runtime that they were tested with. What is new in an operator set is seldom new in what
        it computes: the same integers can be multiplied from 1.18 on.

    Before/after:
        Where the version has no kernel: ``Attention`` becomes products and a softmax, ``RMSNormalization``
        squares, their mean and a root, ``RotaryEmbedding`` products and sums. ``GatherBlockQuantized`` of bytes
        becomes that of INT4 codes, or lookups of codes and scales; ``MatMulNBits`` with a bias gets an ``Add``;
        ``QuantizeLinear`` in blocks ONNX Runtime's own on rows, ``DequantizeLinear`` in blocks codes times scales.
        4-bit constants that are cast become bytes under an Unpack box; what functions compute with bytes is computed in
        32 bits, at load. Then the opset goes down to the highest that the
        version has all kernels of.

    Declines:
        What has no other spelling; the target refuses the model then, and says which version would do.

    Options:
        version: Of ONNX Runtime, the oldest that shall run the model; targets set it (``--min-runtime``).

    Promise:
        Exact up to float rounding. A row of ``Attention`` whose keys are all masked gives the mean of the values, or
        NaN, where the operator gives 0. Where the opset falls below 23, one code of float16 in eighty is its neighbour:
        ``QuantizeLinear`` divides there in float32 (see `lower-quantize`).
    """

    name: ClassVar[str] = "lower-runtime"
    stage: ClassVar[Stage] = Stage.LOWER

    version: str = "1.18"

    def __post_init__(self) -> None:
        if self.version not in kernels.versions():
            raise UsageError(
                f"ONNX Runtime {self.version} is not known", fix="known are " + ", ".join(kernels.versions())
            )

    def apply(self, model: ir.Model) -> Applied:
        """Respell nodes, then constants, then the opset."""
        runtime, outcomes = kernels.runtime(self.version), list[Site | Declined]()
        goal = min(model.opset_imports.get("", runtime.opset), runtime.opset)
        shapes.infer(model)
        for node in list(model.graph.all_nodes()):
            outcomes += _respelled(model, node, runtime, goal)
        outcomes += nibbles.pack(model, functools.partial(nibbles.lacks, runtime, goal))
        outcomes += wide.widen(model, runtime, goal)
        outcomes += _lowered(model, runtime, goal)
        applied = Applied.of(model, outcomes)
        if applied.sites:
            model.graph.sort()
            shapes.infer(model)
        return applied


def _respelled(model: ir.Model, node: ir.Node, runtime: Runtime, goal: int) -> Iterator[Site | Declined]:
    """Write a node that the runtime lacks in the best way that it has."""
    use = runtimes.use_of(node)
    spellings = older.SPELLINGS.get(use.operator, ())
    if not spellings or not (reason := runtimes.lacks(runtime, use, goal)):
        return
    name = node.name or node.op_type
    for spelling in spellings:
        if spelling.needs is not None and runtimes.lacks(runtime, spelling.needs, goal):
            continue
        reason = spelling.write(model, node)
        if not reason:
            yield Site(name, (use.operator,), spelling.write.__name__.replace("_", " "))
            return
    yield Declined(name, reason)


def _lowered(model: ir.Model, runtime: Runtime, goal: int) -> Iterator[Site | Declined]:
    """Bring the model to an opset that the runtime has all kernels of, and to files that it reads."""
    before = model.opset_imports.get("", goal)
    scopes: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    after, reason = opset.best(scopes, goal, runtime.version)
    try:
        for scope in scopes:
            opset.bring(scope, after)
    except InputModelError as error:
        yield Declined("opset", str(error))
        return
    if after > runtime.opset:
        yield Declined("opset", reason)
    elif after != before:
        model.ir_version = min(model.ir_version, opset.ir_version(after))
        yield Site("opset", (f"opset {before}",), f"{before} -> {after}" + (f"; {reason}" if reason else ""))
