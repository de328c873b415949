"""Give dimensions with names a size."""

from __future__ import annotations

import dataclasses
import fnmatch
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.errors import UsageError
from bct_onnx.forms.constants import fold
from bct_onnx.graph import optional


@dataclasses.dataclass(frozen=True)
class FixShapes(Pass):
    """Give every dimension of the inputs that has a name a fixed size.

    Why:
        Accelerators that compile a graph ahead of time need to know every size. A model for them is made for one batch
        and one length of text; shorter texts are padded.

    Before/after:
        An input ``[batch, sequence]`` becomes one of ``[1, 128]``, and so do all shapes that follow from it; what is
        computed from sizes alone becomes a constant, as by fold-constants.

    Declines:
        Dimensions whose name no entry of ``dims`` fits; those without a name.

    Options:
        dims: Sizes by patterns of names, joined by ``|``: ``batch=1|seq*=128``; the first that fits counts.

    Promise:
        Exact, for inputs of these sizes; others are refused by the runtime.

    >>> model = ir.from_onnx_text('''<ir_version: 10, opset_import: ["": 23]>
    ...     g (float[batch, 4] x) => (float[batch, 4] y) { y = Neg (x) }''')
    >>> [site.note for site in FixShapes(("batch=2",))(model).sites], model.graph.outputs[0].shape
    (['batch = 2'], Shape([2, 4]))
    """

    name: ClassVar[str] = "fix-shapes"
    stage: ClassVar[Stage] = Stage.LOWER

    dims: tuple[str, ...] = ("*batch*=1", "*seq*=128")

    def __post_init__(self) -> None:
        for entry in self.dims:
            pattern, equals, size = entry.rpartition("=")
            if not equals or not pattern or not size.isdigit() or size == "0":
                raise UsageError(f"dims={entry} is not allowed", fix="write NAME=SIZE, for example batch=1")

    def apply(self, model: ir.Model) -> Applied:
        """Fix the dimensions of inputs and outputs, and infer all others anew."""
        sites: list[Site] = []
        declined: list[Declined] = []
        for value in model.graph.inputs:
            for axis, dim in enumerate(value.shape or ()):
                if isinstance(dim, int) or optional.is_optional(value):
                    continue
                size = self._size(dim.value)
                if size is None:
                    declined.append(Declined(value.name or "", f"no size is given for its dimension {axis}, '{dim}'"))
                else:
                    sites.append(Site(value.name or "", (), f"{dim} = {size}"))
        for value in (*model.graph.inputs, *model.graph.outputs):
            if value.shape is not None:
                value.shape = ir.Shape([dim if isinstance(dim, int) else self._fixed(dim) for dim in value.shape])
        if sites:
            fold(model)  # infers all shapes anew
        return Applied(model, sites, declined)

    def fixed_size(self, dim: str) -> int | None:
        """What the first entry of ``dims`` that fits says."""
        for entry in self.dims:
            pattern, _, size = entry.rpartition("=")
            if fnmatch.fnmatch(dim, pattern):
                return int(size)
        return None

    def _fixed(self, dim: ir.SymbolicDim) -> int | ir.SymbolicDim:
        size = self._size(dim.value)
        return dim if size is None else size

    def _size(self, name: str | None) -> int | None:
        if name:
            return self.fixed_size(name)
        return None
