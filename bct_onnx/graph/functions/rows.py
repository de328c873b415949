"""Rows of quantized tables: functions of the domain `ai.bct` that decode only the rows asked for.

They call `Unpack` and its kind, which `bct_onnx.graph.functions` has beside what decodes whole matrices.
"""

from __future__ import annotations

TEXTS = {
    "RowsWithin": (
        "Of a table of `total` rows in parts: places in the part of rows `start` to `stop` (not included), 0 for rows"
        " of other parts, and whether rows are in it, [..., 1]. Negative indices count from the end.",
        """
        RowsWithin <start, stop, total> (indices) => (local, inside) {
            zero = Constant <value_int = 0> ()
            last = Constant <value_ints = [-1]> ()
            first = Constant <value_int: int = @start> ()
            end = Constant <value_int: int = @stop> ()
            count = Constant <value_int: int = @total> ()
            wide = Cast <to = 7> (indices)
            negative = Less (wide, zero)
            from_end = Add (wide, count)
            row = Where (negative, from_end, wide)
            moved = Sub (row, first)
            not_before = GreaterOrEqual (row, first)
            not_behind = Less (row, end)
            within = And (not_before, not_behind)
            local = Where (within, moved, zero)
            inside = Unsqueeze (within, last)
        }""",
    ),
    "GatherRows": (
        "Rows of a table stored as int8 codes with one scale per row: only the rows asked for are decoded.",
        """
        GatherRows (table, scale, indices) => (rows) {
            last = Constant <value_ints = [-1]> ()
            codes = Gather <axis = 0> (table, indices)
            values = Cast <to = 1> (codes)
            stored_scales = Gather <axis = 0> (scale, indices)
            scales = Cast <to = 1> (stored_scales)
            row_scales = Unsqueeze (scales, last)
            rows = Mul (values, row_scales)
        }""",
    ),
    "GatherBlocks": (
        "Rows of a table stored as packed few-bit codes, with a packed signed 4-bit multiplier per block along the row"
        " and one scale per row: only the rows asked for are decoded.",
        """
        GatherBlocks <bits, length, offset, block, blocks> (table, multipliers, scale, indices) => (rows) {
            packed = Gather <axis = 0> (table, indices)
            codes = ai.bct.Unpack <bits: int = @bits, length: ints = @length, offset: int = @offset> (packed)
            rows = ai.bct.ScaleRows <length: ints = @length, block: int = @block, blocks: ints = @blocks>
                (codes, multipliers, scale, indices)
        }""",
    ),
    "GatherPlanes": (
        "As GatherBlocks, for 3-bit codes stored as bit planes.",
        """
        GatherPlanes <length, offset, block, blocks> (table, multipliers, scale, indices) => (rows) {
            packed = Gather <axis = 0> (table, indices)
            codes = ai.bct.UnpackPlanes <length: ints = @length, offset: int = @offset> (packed)
            rows = ai.bct.ScaleRows <length: ints = @length, block: int = @block, blocks: ints = @blocks>
                (codes, multipliers, scale, indices)
        }""",
    ),
    "ScaleRows": (
        "Rows of codes times the scales of their blocks: scale[row] * multiplier[row, block] * code.",
        """
        ScaleRows <length, block, blocks> (codes, multipliers, scale, indices) => (rows) {
            last = Constant <value_ints = [-1]> ()
            packed = Gather <axis = 0> (multipliers, indices)
            small = ai.bct.Unpack <bits: int = 4, length: ints = @blocks, offset: int = 8> (packed)
            factors = Cast <to = 1> (small)
            stored_scales = Gather <axis = 0> (scale, indices)
            scales = Cast <to = 1> (stored_scales)
            row_scales = Unsqueeze (scales, last)
            block_scales = Mul (factors, row_scales)
            element_scales = ai.bct.ExpandColumns <columns: int = @block, length: ints = @length> (block_scales)
            values = Cast <to = 1> (codes)
            rows = Mul (values, element_scales)
        }""",
    ),
}
