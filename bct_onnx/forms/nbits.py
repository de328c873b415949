"""A stored weight for the operator MatMulNBits of `com.microsoft`, from the codes that are stored anyway.

MatMulNBits reads codes [N, blocks, bytes] of 4 or 8 bits, low nibbles first, 8 or 128 for zero, and one float scale per
block. They are made on constants when a session is created, as the int8 matrix of `bct_onnx.forms.weights` is from the
same codes. Block scales are multiplier times column scale: a product the two-level format defines exactly so.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from bct_onnx.forms import weights
from bct_onnx.forms.weights import Stored
from bct_onnx.graph import functions
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.kernels import MICROSOFT

INT8 = 4
"""The `accuracy_level` at which activations may be rounded to 8 bits per block of a row."""

BLOCKS = (16, 32, 64, 128, 256)
"""Block sizes that MatMulNBits takes."""


def refusal(stored: Stored) -> str:
    """Why a weight cannot be given to MatMulNBits; empty where it can."""
    if stored.zero_points is not None:
        return "MatMulNBits has no zero points of ours"
    block = block_of(stored)
    return "" if block in BLOCKS else f"MatMulNBits takes blocks of a power of two from 16 to 256, not {block}"


def block_of(stored: Stored) -> int:
    """Values along K that share a scale; where a column has one, the largest block that divides K."""
    if stored.multipliers is not None:
        return stored.block[1] if stored.transposed else stored.block[0]
    return next((size for size in reversed(BLOCKS[:-1]) if stored.k % size == 0), 32)


def bits_of(stored: Stored) -> int:
    """4 or 8, whichever holds the codes."""
    if stored.codes.dtype in (ir.DataType.INT4, ir.DataType.INT2):
        return 4
    producer = stored.codes.producer()
    packed = producer.attributes.get_int("bits", 3) if producer is not None else 8
    return 4 if packed <= 4 else 8


def product(edit: Edit, x: ir.Value | None, packed: tuple[ir.Value, ir.Value, dict[str, Any]]) -> ir.Value:
    """Multiply by a weight from `Packing.of`, 4-bit ones in float.

    ONNX Runtime's CPU provider has no float kernel for 8 bits: without a level it decodes the weight on every call, 270
    times slower than float32 at one row (1.32, AVX2). At level 4 a row's activations become 8-bit codes, some 45 dB.
    """
    codes, scales, options = packed
    if options["bits"] == 8:
        options = {**options, "accuracy_level": INT8}
    return edit.op("MatMulNBits", x, codes, scales, domain=MICROSOFT, **options)


class Packing:
    """The weights of a model as MatMulNBits takes them; one that several products share is packed once."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._packed: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def of(self, stored: Stored) -> tuple[ir.Value, ir.Value, dict[str, Any]]:
        """Codes [N, blocks, bytes], scales [N, blocks] in the weight's type, and the operator's attributes."""
        if stored.float32 not in self._packed:
            self._packed[stored.float32] = self._pack(stored)
        options = {"K": stored.k, "N": stored.n, "bits": bits_of(stored), "block_size": block_of(stored)}
        return *self._packed[stored.float32], options

    def _pack(self, stored: Stored) -> tuple[ir.Value, ir.Value]:
        producer = stored.float32.producer()
        assert producer is not None
        edit = Edit(producer, (stored.codes.name or "weight").removesuffix(".codes"))
        perm = [0, 1] if stored.transposed else [1, 0]
        bits, block = bits_of(stored), block_of(stored)
        name, shape = ("PackNibbles", [0, -1, block // 2, 2]) if bits == 4 else ("PackBytes", [0, -1, block])
        codes = stored.codes
        if missing := -stored.k % block:
            after = [0, 0, 0, missing] if stored.transposed else [0, 0, missing, 0]
            codes = edit.op("Cast", codes, to=ir.DataType.INT8, name="int8")
            codes = edit.op("Pad", codes, edit.shape("pads", after), name="whole_blocks")
        domain = functions.use(self._model, name)
        packed = edit.op(name, codes, domain=domain, perm=perm, shape=shape, name="packed")
        scales = self._scales(edit, stored, -(-stored.k // block), perm)
        if stored.dtype != ir.DataType.FLOAT:
            scales = edit.op("Cast", scales, to=stored.dtype, name="typed")
        return packed, scales

    def _scales(self, edit: Edit, stored: Stored, blocks: int, perm: list[int]) -> ir.Value:
        scale = weights.column_scale(self._model, edit, stored)
        if stored.multipliers is None:
            column = edit.op("Unsqueeze", scale, edit.shape("last", [-1]), name="column")
            return edit.op("Expand", column, edit.shape("blocks", [stored.n, blocks]), name="block_scales")
        multipliers, columns = stored.multipliers, 1 if stored.transposed else stored.block[1]
        if columns > 1:
            domain = functions.use(self._model, "ExpandColumns")
            widened: dict[str, Any] = {"columns": columns, "length": [stored.n]}
            small = edit.op("Cast", multipliers, to=ir.DataType.FLOAT, name="factors")
            multipliers = edit.op("ExpandColumns", small, domain=domain, **widened, name="multipliers")
        domain = functions.use(self._model, "BlockScales")
        return edit.op("BlockScales", multipliers, scale, domain=domain, perm=perm, name="block_scales")
