"""Store constants of 4 bits as bytes."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Pass, Stage
from bct_onnx.forms import nibbles
from bct_onnx.graph import functions


@dataclasses.dataclass(frozen=True)
class PackNibbles(Pass):
    """Store constants of 4 bits as bytes that hold two codes each, wherever they are cast.

    Why:
        onnxruntime-web's builds with WebGPU have no ``Cast`` of INT4, so that weights which are decoded when a session
        is created keep it from being created. Arithmetic on bytes is folded there.

    Before/after:
        ``Cast(codes)`` and ``DecodeInt8(codes, multipliers)`` of INT4 become the same of ``Unpack(bytes)``.

    Declines:
        Nothing; operators that take 4 bits as they are keep them.

    Options:
        None.

    Promise:
        Exact; the file keeps its size.
    """

    name: ClassVar[str] = "pack-nibbles"
    stage: ClassVar[Stage] = Stage.LOWER

    def apply(self, model: ir.Model) -> Applied:
        """Give bytes to every user that casts."""
        applied = Applied.of(model, nibbles.pack(model, _casts))
        if applied.sites:
            model.graph.sort()
        return applied


def _casts(node: ir.Node, codes: ir.Value) -> bool:
    """Functions of this tool cast what they are given."""
    return node.domain == functions.DOMAIN or (node.op_type == "Cast" and not node.domain)
