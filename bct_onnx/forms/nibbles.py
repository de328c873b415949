"""Constants of 4 bits as bytes, for runtimes that have the types INT4 and UINT4 but few operators of them.

ONNX Runtime has no ``Cast`` of them before 1.23, and without it nothing on constants could be folded at load: the codes
become bytes that hold two each, under an `ai.bct` Unpack box.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from bct_onnx.base import Site
from bct_onnx.forms import packed
from bct_onnx.graph import functions, runtimes, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.kernels import Runtime
from bct_onnx.graph.neighbours import is_read
from bct_onnx.quant import packing

_OFFSETS = {ir.DataType.INT4: 8, ir.DataType.UINT4: 0}
_SIGNS = 0x88


def pack(model: ir.Model, takes_bytes: Callable[[ir.Node, ir.Value], bool]) -> Iterator[Site]:
    """Give bytes to users of 4-bit constants: those of which ``takes_bytes`` is true, given node and constant."""
    for value in list(model.graph.initializers.values()):
        if value.dtype not in _OFFSETS:
            continue
        users = [use for use in value.uses() if takes_bytes(use.node, value)]
        if not users:
            continue
        codes = _unpacked(model, value)
        for use in users:
            use.node.replace_input_with(use.idx, codes)
        if not is_read(value):
            del model.graph.initializers[value.name or ""]
        yield Site(value.name or "", (str(value.dtype),), "bytes of two codes each")


def lacks(runtime: Runtime, opset: int, node: ir.Node, value: ir.Value) -> bool:
    """Whether a runtime does not run a user of 4-bit constants with these; functions cast what they are given."""
    use = runtimes.use_of(node)
    if node.domain == functions.DOMAIN:
        use = runtimes.Use("Cast", (runtimes.type_name(value),), (("to", ir.DataType.INT8.value),))
    return bool(runtimes.lacks(runtime, use, opset))


def _unpacked(model: ir.Model, value: ir.Value) -> ir.Value:
    """The codes as int8, from packed bytes."""
    assert value.shape is not None and value.const_value is not None and value.dtype is not None
    offset, shape, name = _OFFSETS[value.dtype], value.shape.numpy(), value.name or "codes"
    edit = Edit(model.graph[0], name)
    if shape and shape[-1] % 2 == 0:
        stored = np.frombuffer(value.const_value.tobytes(), np.uint8).reshape(*shape[:-1], shape[-1] // 2)
        stored = stored ^ np.uint8(_SIGNS if offset else 0)
    else:
        stored = packing.pack_nibbles(tensors.array(value).astype(np.int8), offset)
    constant = edit.constant(f"{name}.bytes", stored)
    return packed.unpack(model, edit, constant, 4, shape[-1], symmetric=bool(offset))
