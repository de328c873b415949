"""Integers of few bits as constants of a graph: packed in bytes under an `ai.bct` Unpack box, and read back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.graph import functions, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.known import dtype_of
from bct_onnx.graph.neighbours import made_by
from bct_onnx.quant import packing
from bct_onnx.quant.strips import slices_of

_PACKED_AT_ONCE = 1 << 17  # codes packed at a time: packing makes several copies


def write(edit: Edit, name: str, codes: npt.NDArray[Any], bits: int, symmetric: bool = True) -> ir.Value:
    """Register codes packed in bytes along their last axis, offset to be unsigned."""
    (rows, length), offset = codes.shape, _offset(bits, symmetric)
    if bits == 4:
        return edit.constant(name, packing.pack_nibbles(codes, offset))
    stored = np.empty((rows, packing.packed_length(length, bits)), np.uint8)
    for some in slices_of(rows, length, _PACKED_AT_ONCE):
        unsigned = codes[some].astype(np.uint8) + np.uint8(offset)  # modulo 256
        stored[some] = packing.pack(unsigned, bits, axis=-1)
    return edit.constant(name, stored)


def rewrite(codes: ir.Value, integers: npt.NDArray[Any], bits: int, symmetric: bool = True) -> None:
    """Put other integers of the same shape into the constant behind codes, packed as it is."""
    stored = constant(codes)
    if stored.dtype != ir.DataType.UINT8 or integers.shape == tuple(stored.shape or ()):
        tensors.refill(stored, integers)
        return
    unsigned = integers.astype(np.uint8) + np.uint8(_offset(bits, symmetric))
    tensors.refill(stored, packing.pack(unsigned, bits, axis=-1))


def unpack(model: ir.Model, edit: Edit, value: ir.Value, bits: int, length: int, symmetric: bool = True) -> ir.Value:
    """The int8 codes of a constant that `write` has registered."""
    (suffix, options), offset = layout(bits, length), _offset(bits, symmetric)
    box = f"Unpack{suffix}"
    domain = functions.use(model, box)
    codes = edit.op(box, value, domain=domain, **options, length=[length], offset=offset, name="codes")
    codes.type, codes.shape = ir.TensorType(ir.DataType.INT8), ir.Shape([*(value.shape or ())[:-1], length])
    return codes


def layout(bits: int, length: int) -> tuple[str, dict[str, Any]]:
    """How the names end of the functions that read rows of so many packed codes, and what these need to know."""
    if bits == 3:
        return "Planes", {}
    if packing.is_sliced(bits):
        return "Slices", {"high": bits - packing.LOW, "split": [packing.packed_length(length, packing.LOW)]}
    return "", {"bits": bits}


def bits_of(box: ir.Node) -> int:
    """Bits per code of what a function of ours reads; see `layout`."""
    if "high" in box.attributes:
        return packing.LOW + box.attributes["high"].as_int()
    return box.attributes.get_int("bits", 3)


def read(value: ir.Value) -> npt.NDArray[Any]:
    """The integers of a constant in their own type, or int8 of one under an Unpack box."""
    box = value.producer()
    if box is None:
        return tensors.array(value)
    length = box.attributes["length"].as_ints()[0]
    return unpacked(constant(value), bits_of(box), length, box.attributes["offset"].as_int())


def code_range(codes: ir.Value) -> tuple[int, int]:
    """Least and largest code that a box may give."""
    box = codes.producer()
    assert box is not None
    offset = box.attributes["offset"].as_int()
    return -offset, (1 << bits_of(box)) - 1 - offset


def unpacked(value: ir.Value, bits: int, length: int, offset: int) -> npt.NDArray[np.int8]:
    """The integers of a constant of bytes, less ``offset``."""
    unsigned = packing.unpack(tensors.array(value), bits, length, axis=-1)
    return np.asarray(unsigned.astype(np.int16) - offset, np.int8)


def constant(codes: ir.Value) -> ir.Value:
    """The constant behind codes: themselves, or what an Unpack box reads."""
    box = codes.producer()
    if box is None:
        return codes
    assert box.inputs[0] is not None
    return box.inputs[0]


def float32(edit: Edit, scale: ir.Value) -> ir.Value:
    """A scale as float32, whatever it is stored in."""
    if scale.dtype == ir.DataType.FLOAT:
        return scale
    return edit.op("Cast", scale, to=ir.DataType.FLOAT, name="scale")


def typed(edit: Edit, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """A float32 value in the float type of the model."""
    if dtype == ir.DataType.FLOAT:
        return value
    return edit.op("Cast", value, to=dtype, name="typed")


def uncast(value: ir.Value | None) -> tuple[ir.Value | None, ir.DataType | None]:
    """What a value is cast from, if it is, and its type."""
    cast = made_by(value, "Cast")
    if cast is not None:
        return cast.inputs[0], ir.DataType(cast.attributes["to"].as_int())
    return value, dtype_of(value)


def expand_columns(model: ir.Model, edit: Edit, value: ir.Value, length: int, columns: int) -> ir.Value:
    """One value per column from one for so many columns."""
    if columns == 1:
        return value
    domain = functions.use(model, "ExpandColumns")
    return edit.op("ExpandColumns", value, domain=domain, columns=columns, length=[length], name="columns")


def _offset(bits: int, symmetric: bool) -> int:
    if symmetric:
        return 1 << (bits - 1)
    return 0
