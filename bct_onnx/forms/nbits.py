"""A stored weight for the operator MatMulNBits of `com.microsoft`, from the codes that are stored anyway.

MatMulNBits reads codes [N, blocks, bytes] of 4 or 8 bits, low nibbles first, 8 or 128 for zero, and one float scale per
block. They are made on constants when a session is created, as the int8 matrix of `bct_onnx.forms.int8` is from the
same codes. Block scales are multiplier times column scale: a product the two-level format defines exactly so.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx_ir as ir

from bct_onnx.forms import packed
from bct_onnx.forms.weights import StoredWeight
from bct_onnx.graph import functions
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.kernels import MICROSOFT

INT8 = 4
"""The `accuracy_level` at which activations may be rounded to 8 bits per block of a row."""

BLOCKS = (16, 32, 64, 128, 256)
"""Block sizes that MatMulNBits takes."""

TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
"""Types of activations that MatMulNBits takes."""


def refusal(stored: StoredWeight) -> str:
    """Why a weight cannot be given to MatMulNBits; empty where it can."""
    if stored.zero_points is not None:
        return "MatMulNBits has no zero points of ours"
    if stored.dtype not in TYPES:
        return f"MatMulNBits computes in float32 and in 16 bits, not in {stored.dtype.name}"
    block = block_of(stored)
    if block in BLOCKS:
        return ""
    return f"MatMulNBits takes blocks of a power of two from 16 to 256, not {block}"


def block_of(stored: StoredWeight) -> int:
    """Values along K that share a scale; where a column has one, the largest block that divides K."""
    if stored.multipliers is not None:
        return stored.block_shape[0]
    return next((size for size in reversed(BLOCKS[:-1]) if stored.k % size == 0), 32)


def bits_of(stored: StoredWeight) -> int:
    """4 or 8, whichever holds the codes."""
    return 4 if stored.bits <= 4 else 8


@dataclasses.dataclass(frozen=True)
class Packed:
    """A weight as MatMulNBits takes it.

    Attributes:
        codes: uint8, [N, blocks, bytes].
        scales: [N, blocks] in the weight's type.
        k: Length of the contracted axis.
        n: Number of columns.
        bits: Of a code.
        block: Values along K that share a scale.
    """

    codes: ir.Value
    scales: ir.Value
    k: int
    n: int
    bits: int
    block: int

    @property
    def attributes(self) -> dict[str, Any]:
        """Of the operator."""
        return {"K": self.k, "N": self.n, "bits": self.bits, "block_size": self.block}


def product(edit: Edit, x: ir.Value | None, weight: Packed) -> ir.Value:
    """Multiply by a weight from `Packing.of`, 4-bit ones in float.

    ONNX Runtime's CPU provider has no float kernel for 8 bits: without a level it decodes the weight on every call, 270
    times slower than float32 at one row (1.32, AVX2). At level 4 a row's activations become 8-bit codes, some 45 dB.
    """
    options = weight.attributes
    if weight.bits == 8:
        options["accuracy_level"] = INT8
    return edit.op("MatMulNBits", x, weight.codes, weight.scales, domain=MICROSOFT, **options)


class Packing:
    """The weights of a model as MatMulNBits takes them; one that several products share is packed once."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._packed: dict[ir.Value, Packed] = {}

    def of(self, stored: StoredWeight) -> Packed:
        """The weight, packed the first time."""
        if stored.float32 not in self._packed:
            self._packed[stored.float32] = self._pack(stored)
        return self._packed[stored.float32]

    def _pack(self, stored: StoredWeight) -> Packed:
        edit = stored.edit()
        perm, bits, block = [1, 0], bits_of(stored), block_of(stored)
        codes, missing = stored.codes, [0, 0, -stored.k % block, 0]
        if stored.transposed:
            perm.reverse()
            missing[2:] = reversed(missing[2:])
        if any(missing):
            codes = edit.op("Cast", codes, to=ir.DataType.INT8, name="int8")
            codes = edit.op("Pad", codes, edit.shape("pads", missing), name="whole_blocks")
        name, shape = "PackNibbles", [0, -1, block // 2, 2]
        if bits == 8:
            name, shape = "PackBytes", [0, -1, block]
        domain = functions.use(self._model, name)
        packed_codes = edit.op(name, codes, domain=domain, perm=perm, shape=shape, name="packed")
        scales = packed.typed(edit, self._scales(edit, stored, -(-stored.k // block), perm), stored.dtype)
        return Packed(packed_codes, scales, stored.k, stored.n, bits, block)

    def _scales(self, edit: Edit, stored: StoredWeight, blocks: int, perm: list[int]) -> ir.Value:
        scale = stored.column_scale(self._model, edit)
        if stored.multipliers is None:
            column = edit.op("Unsqueeze", scale, edit.shape("last", [-1]), name="column")
            return edit.op("Expand", column, edit.shape("blocks", [stored.n, blocks]), name="block_scales")
        multipliers, columns = stored.multipliers, stored.block_shape[1]
        if columns > 1:
            domain = functions.use(self._model, "ExpandColumns")
            widened: dict[str, Any] = {"columns": columns, "length": [stored.n]}
            small = edit.op("Cast", multipliers, to=ir.DataType.FLOAT, name="factors")
            multipliers = edit.op("ExpandColumns", small, domain=domain, **widened, name="multipliers")
        domain = functions.use(self._model, "BlockScales")
        return edit.op("BlockScales", multipliers, scale, domain=domain, perm=perm, name="block_scales")
