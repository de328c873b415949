"""Model-local functions of the domain `ai.bct`: one readable box in Netron, standard operators inside.

The decoding functions take constants only, so ONNX Runtime folds them once when a session is created; what is
left to run is the operator behind them. Without graph optimization they run on every call, with equal results.
The integer kernels of `bct_onnx.integer` are functions of the same domain.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as ir_passes

from bct_onnx.graph.functions import nbits, rows

DOMAIN = "ai.bct"

DECODING = ("DecodeInt8", "DecodeInt8Offset")
"""Functions that are given constants alone."""

_TEXTS = {
    **nbits.TEXTS,
    **rows.TEXTS,
    "TokenScale": (
        "Scale of int8 codes, one per token (row): the least that fits max(x) into the levels above zero and min(x)"
        " into those below. It depends on the row alone, so a text gives the same result in every batch. The floor"
        " keeps all-zero rows from dividing by zero.",
        """
        TokenScale <above, below> (x) => (scale) {
            last = Constant <value_ints = [-1]> ()
            top = ReduceMax <keepdims = 1> (x, last)
            bottom = ReduceMin <keepdims = 1> (x, last)
            levels_above = Constant <value_float: float = @above> ()
            levels_below = Constant <value_float: float = @below> ()
            levels_negative = Neg (levels_below)
            for_top = Div (top, levels_above)
            for_bottom = Div (bottom, levels_negative)
            floor = Constant <value = float {1e-20}> ()
            scale = Max (for_top, for_bottom, floor)
        }""",
    ),
    "BlockScale": (
        "Scale of int8 codes, one per block of channels of each token: the largest magnitude / 127. `tail` is"
        " [-1, channels per block].",
        """
        BlockScale <tail> (x) => (scale) {
            last = Constant <value_ints = [-1]> ()
            leading = Shape <end = -1> (x)
            ending = Constant <value_ints: ints = @tail> ()
            shape = Concat <axis = 0> (leading, ending)
            magnitude = Abs (x)
            blocks = Reshape (magnitude, shape)
            top = ReduceMax <keepdims = 0> (blocks, last)
            levels = Constant <value = float {127.0}> ()
            fitting = Div (top, levels)
            floor = Constant <value = float {1e-20}> ()
            scale = Max (fitting, floor)
        }""",
    ),
    "Unpack": (
        "int8 codes of 2, 4 or 8 bits from bytes, along the last axis, low bits first; stored = code + offset.",
        """
        Unpack <bits, length, offset> (packed) => (codes) {
            zero = Constant <value_int = 0> ()
            one = Constant <value_int = 1> ()
            two = Constant <value_int = 2> ()
            eight = Constant <value_int = 8> ()
            last = Constant <value_ints = [-1]> ()
            start = Constant <value_ints = [0]> ()
            width = Constant <value_int: int = @bits> ()
            places = Range (zero, eight, width)
            narrow = Cast <to = 2> (places)
            shifts = Unsqueeze (narrow, last)
            levels = Pow (two, width)
            top = Sub (levels, one)
            mask = Cast <to = 2> (top)
            every = Constant <value_ints = [1, -1]> ()
            bytes = Reshape (packed, every)
            moved = BitShift <direction = "RIGHT"> (bytes, shifts)
            kept = BitwiseAnd (moved, mask)
            flat = Transpose <perm = [1, 0]> (kept)
            outer = Shape <end = -1> (packed)
            inner = Shape <start = -1> (packed)
            each = Shape (places)
            count = Mul (inner, each)
            shape = Concat <axis = 0> (outer, count)
            rows = Reshape <allowzero = 1> (flat, shape)
            end = Constant <value_ints: ints = @length> ()
            row = Slice (rows, start, end, last)
            shift = Constant <value_int: int = @offset> ()
            middle = Cast <to = 2> (shift)
            less = Sub (row, middle)
            codes = Cast <to = 3> (less)
        }""",
    ),
    "UnpackPlanes": (
        "Signed 3-bit codes from bit planes along the last axis: of each 3 bytes, byte p holds bit p of 8 codes;"
        " stored = code + offset.",
        """
        UnpackPlanes <length, offset> (packed) => (codes) {
            last = Constant <value_ints = [-1]> ()
            start = Constant <value_ints = [0]> ()
            one = Constant <value = uint8 {1}> ()
            four = Constant <value = uint8 {4}> ()
            by = Constant <value = uint8[8] {0, 1, 2, 3, 4, 5, 6, 7}> ()
            triples = Constant <value_ints = [-1, 3]> ()
            groups = Reshape (packed, triples)
            low, mid, high = Split <axis = 1, num_outputs = 3> (groups)
            low_moved = BitShift <direction = "RIGHT"> (low, by)
            mid_moved = BitShift <direction = "RIGHT"> (mid, by)
            high_moved = BitShift <direction = "RIGHT"> (high, by)
            ones = BitwiseAnd (low_moved, one)
            mid_bits = BitwiseAnd (mid_moved, one)
            high_bits = BitwiseAnd (high_moved, one)
            twos = Add (mid_bits, mid_bits)
            fours = Mul (high_bits, four)
            both = Add (ones, twos)
            flat = Add (both, fours)
            outer = Shape <end = -1> (packed)
            inner = Shape <start = -1> (packed)
            three = Constant <value_ints = [3]> ()
            eight = Constant <value_ints = [8]> ()
            whole = Div (inner, three)
            count = Mul (whole, eight)
            shape = Concat <axis = 0> (outer, count)
            rows = Reshape <allowzero = 1> (flat, shape)
            end = Constant <value_ints: ints = @length> ()
            row = Slice (rows, start, end, last)
            shift = Constant <value_int: int = @offset> ()
            middle = Cast <to = 2> (shift)
            less = Sub (row, middle)
            codes = Cast <to = 3> (less)
        }""",
    ),
    "UnpackSlices": (
        "Signed codes of 5 or 6 bits from two slices along the last axis: `split` bytes with the low 4 bits of all"
        " codes, then their 1 or 2 upper bits (`high`); stored = code + offset.",
        """
        UnpackSlices <high, split, length, offset> (packed) => (codes) {
            last = Constant <value_ints = [-1]> ()
            start = Constant <value_ints = [0]> ()
            middle = Constant <value_ints: ints = @split> ()
            end = Shape <start = -1> (packed)
            first = Slice (packed, start, middle, last)
            second = Slice (packed, middle, end, last)
            low = ai.bct.Unpack <bits: int = 4, length: ints = @length, offset: int = @offset> (first)
            upper = ai.bct.Unpack <bits: int = @high, length: ints = @length, offset: int = 0> (second)
            sixteen = Constant <value = int8 {16}> ()
            above = Mul (upper, sixteen)
            codes = Add (low, above)
        }""",
    ),
    "ExpandBlocks": (
        "One value per block of rows x columns, repeated to one value per element of a [K, N] matrix.",
        """
        ExpandBlocks <rows, columns> (blocks, matrix) => (values) {
            zero = Constant <value_int = 0> ()
            one = Constant <value_int = 1> ()
            start = Constant <value_ints = [0]> ()
            last = Constant <value_ints = [-1]> ()
            height = Constant <value_int: int = @rows> ()
            width = Constant <value_int: int = @columns> ()
            times = Unsqueeze (width, start)
            apart = Unsqueeze (blocks, last)
            wider = Expand (apart, times)
            kb = Shape <end = 1> (blocks)
            shape = Concat <axis = 0> (kb, last)
            flat = Reshape (wider, shape)
            n = Shape <start = 1> (matrix)
            wide = Slice (flat, start, n, last)
            high = Shape <end = 1> (matrix)
            k = Squeeze (high)
            every = Range (zero, k, one)
            row = Div (every, height)
            values = Gather <axis = 0> (wide, row)
        }""",
    ),
    "ExpandColumns": (
        "One value per block of columns, repeated to one value per column (`length` in all); the last axis of"
        " `blocks` grows.",
        """
        ExpandColumns <columns, length> (blocks) => (values) {
            start = Constant <value_ints = [0]> ()
            last = Constant <value_ints = [-1]> ()
            width = Constant <value_int: int = @columns> ()
            times = Unsqueeze (width, start)
            apart = Unsqueeze (blocks, last)
            repeated = Expand (apart, times)
            outer = Shape <end = -1> (blocks)
            inner = Shape <start = -1> (blocks)
            count = Mul (inner, times)
            shape = Concat <axis = 0> (outer, count)
            padded = Reshape <allowzero = 1> (repeated, shape)
            end = Constant <value_ints: ints = @length> ()
            values = Slice (padded, start, end, last)
        }""",
    ),
    "DecodeInt8": (
        "An int8 matrix [K, N] from few-bit codes and one small integer multiplier per block: multiplier * code.",
        """
        DecodeInt8 <rows, columns> (codes, multipliers) => (matrix) {
            small = Cast <to = 3> (codes)
            per_block = Cast <to = 3> (multipliers)
            factor = ai.bct.ExpandBlocks <rows: int = @rows, columns: int = @columns> (per_block, small)
            matrix = Mul (small, factor)
        }""",
    ),
    "DecodeInt8Offset": (
        "An int8 matrix [K, N] from few-bit codes with a multiplier and a zero point per block: multiplier *"
        " (code - zero point).",
        """
        DecodeInt8Offset <rows, columns> (codes, multipliers, zero_points) => (matrix) {
            small = Cast <to = 3> (codes)
            offset = Cast <to = 3> (zero_points)
            shift = ai.bct.ExpandBlocks <rows: int = @rows, columns: int = @columns> (offset, small)
            centred = Sub (small, shift)
            per_block = Cast <to = 3> (multipliers)
            factor = ai.bct.ExpandBlocks <rows: int = @rows, columns: int = @columns> (per_block, small)
            matrix = Mul (centred, factor)
        }""",
    ),
}


BYTES: Mapping[str, Mapping[str, ir.DataType]] = {
    "Unpack": {"less": ir.DataType.UINT8},
    "UnpackPlanes": dict.fromkeys(("twos", "fours", "both", "flat", "less"), ir.DataType.UINT8),
    "UnpackSlices": {"above": ir.DataType.INT8, "codes": ir.DataType.INT8},
    "DecodeInt8": {"matrix": ir.DataType.INT8},
    "DecodeInt8Offset": {"centred": ir.DataType.INT8, "matrix": ir.DataType.INT8},
    "PackNibbles": {"moved": ir.DataType.INT8, "raised": ir.DataType.UINT8, "packed": ir.DataType.UINT8},
    "PackBytes": {"unsigned": ir.DataType.UINT8},
}
"""Sums, differences and products of bytes, by function: not every runtime has kernels for them."""


def use(model: ir.Model, name: str) -> str:
    """Make the function or integer kernel ``name``, and those it calls, available in ``model``; return its domain.

    Raises:
        KeyError: There is no such function.
    """
    if (DOMAIN, name, "") in model.functions:
        return DOMAIN
    if name not in _TEXTS:
        from bct_onnx.integer import KERNELS, LOWERED, model_functions  # slow to import, seldom needed

        for function in model_functions({**KERNELS, **LOWERED}[name]):
            _put(model, function)
        return DOMAIN
    function = ir.serde.deserialize_function(_message(name))
    function.doc_string = _TEXTS[name][0]
    _put(model, function)
    for node in function:
        if node.domain == DOMAIN:
            use(model, node.op_type)
    return DOMAIN


def _put(model: ir.Model, function: ir.Function) -> None:
    """Add a function at the model's opset: all operators in functions are the same from opset 21 on.

    Its nodes go without names, which would repeat those of their values: with integer kernels that is 10 kB of a file.
    """
    if model.functions.setdefault(function.identifier(), function) is function:
        for node in function:
            node.name = ""
        function.opset_imports[""] = model.opset_imports.get("", function.opset_imports[""])
        model.opset_imports.setdefault(DOMAIN, 1)


def names() -> tuple[str, ...]:
    """All functions there are but the integer kernels."""
    return tuple(_TEXTS)


@functools.cache
def _message(name: str) -> onnx.FunctionProto:
    """A function as protobuf, parsed once."""
    opset = '<domain: "ai.bct", opset_import: ["": 23, "ai.bct": 1]>'
    message: onnx.FunctionProto = onnx.parser.parse_function(opset + _TEXTS[name][1])
    return message


def inlined(model: ir.Model, keep: Collection[str] = ()) -> ir.Model:
    """A copy without functions, but for some of this module to ``keep``, to look at: operators of a function of another
    opset are taken as of the model's."""
    copy = model.clone()
    for function in copy.functions.values():
        for domain in set(function.opset_imports) & set(copy.opset_imports):
            function.opset_imports[domain] = copy.opset_imports[domain]
    if copy.functions:
        kept = {(DOMAIN, name, "") for name in keep}
        ir_passes.InlinePass(lambda function: function.identifier() not in kept)(copy)
    return copy
