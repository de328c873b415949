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
    "GatherSlices": (
        "As GatherBlocks, for codes of 5 and 6 bits stored in two slices.",
        """
        GatherSlices <high, split, length, offset, block, blocks> (table, multipliers, scale, indices) => (rows) {
            packed = Gather <axis = 0> (table, indices)
            codes = ai.bct.UnpackSlices <high: int = @high, split: ints = @split, length: ints = @length,
                offset: int = @offset> (packed)
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
    "ByteLevels": (
        "The levels of all codes of `bits` bits that a byte holds, low bits first: of 256 bytes, the same four times as"
        " large, and zeros: float32 [768, 8 / bits]. A level lies half a step beside zero.",
        """
        ByteLevels <bits> () => (levels) {
            zero = Constant <value_int = 0> ()
            one = Constant <value_int = 1> ()
            two = Constant <value_int = 2> ()
            eight = Constant <value_int = 8> ()
            many = Constant <value_int = 256> ()
            last = Constant <value_ints = [-1]> ()
            half = Constant <value = float {0.5}> ()
            four = Constant <value = float {4.0}> ()
            width = Constant <value_int: int = @bits> ()
            places = Range (zero, eight, width)
            shifts = Cast <to = 2> (places)
            every = Range (zero, many, one)
            bytes = Cast <to = 2> (every)
            apart = Unsqueeze (bytes, last)
            moved = BitShift <direction = "RIGHT"> (apart, shifts)
            count = Pow (two, width)
            top = Sub (count, one)
            mask = Cast <to = 2> (top)
            kept = BitwiseAnd (moved, mask)
            codes = Cast <to = 1> (kept)
            highest = Cast <to = 1> (top)
            middle = Mul (highest, half)
            single = Sub (codes, middle)
            fourfold = Mul (single, four)
            none = Sub (single, single)
            levels = Concat <axis = 0> (single, fourfold, none)
        }""",
    ),
    "GatherSlice": (
        "The levels that the slice of `bits` bits of a table's codes stands for, float32 [..., length]: of rows of the"
        " slice, from a part of `ByteLevels` (0, 256 or 512) for each.",
        """
        GatherSlice <bits, length> (slice, rows, part) => (levels) {
            last = Constant <value_ints = [-1]> ()
            packed = Gather <axis = 0> (slice, rows)
            wide = Cast <to = 6> (packed)
            begin = Unsqueeze (part, last)
            at = Add (wide, begin)
            every = ai.bct.ByteLevels <bits: int = @bits> ()
            apart = Gather <axis = 0> (every, at)
            outer = Shape <end = -1> (packed)
            inner = Constant <value_ints: ints = @length> ()
            shape = Concat <axis = 0> (outer, inner)
            levels = Reshape <allowzero = 1> (apart, shape)
        }""",
    ),
    "GatherMixed": (
        "Rows of a table whose rows have 1, 2, 3, 4, 6 or 8 bits: only the rows asked for are decoded. Rows lie in the"
        " order 1, 3, 2, 6, 4, 8 of their widths, and codes in slices of 1, 2 and 4 bits; `after1` is the place behind"
        " the last row of 1 bit, and so on. A row is its scale times the sum of what its slices stand for. Levels of 8"
        " bits are stored as they are, with zeros behind their last row.",
        """
        GatherMixed <length, after1, after3, after2, after6, after4>
                (places, ones, twos, fours, eights, scale, indices) => (rows) {
            zero = Constant <value_int = 0> ()
            minus_one = Constant <value_int = -1> ()
            last = Constant <value_ints = [-1]> ()
            plain = Constant <value = int32 {0}> ()
            fourfold = Constant <value = int32 {256}> ()
            none = Constant <value = int32 {512}> ()
            one_bit = Constant <value_int: int = @after1> ()
            three_bits = Constant <value_int: int = @after3> ()
            two_bits = Constant <value_int: int = @after2> ()
            six_bits = Constant <value_int: int = @after6> ()
            four_bits = Constant <value_int: int = @after4> ()
            stored_places = Gather <axis = 0> (places, indices)
            place = Cast <to = 7> (stored_places)
            has_one = Less (place, three_bits)
            one_row = Where (has_one, place, zero)
            is_one = Less (place, one_bit)
            one_scaled = Where (is_one, plain, fourfold)
            one_part = Where (has_one, one_scaled, none)
            by_one = ai.bct.GatherSlice <bits: int = 1, length: ints = @length> (ones, one_row, one_part)
            not_one = Not (is_one)
            not_four = Less (place, six_bits)
            has_two = And (not_one, not_four)
            from_two = Sub (place, one_bit)
            two_row = Where (has_two, from_two, zero)
            two_part = Where (has_two, plain, none)
            by_two = ai.bct.GatherSlice <bits: int = 2, length: ints = @length> (twos, two_row, two_part)
            has_eight = GreaterOrEqual (place, four_bits)
            not_eight = Not (has_eight)
            from_two_on = GreaterOrEqual (place, two_bits)
            has_four = And (from_two_on, not_eight)
            from_four = Sub (place, two_bits)
            four_row = Where (has_four, from_four, zero)
            four_scaled = Where (not_four, fourfold, plain)
            four_part = Where (has_four, four_scaled, none)
            by_four = ai.bct.GatherSlice <bits: int = 4, length: ints = @length> (fours, four_row, four_part)
            from_eight = Sub (place, four_bits)
            eight_row = Where (has_eight, from_eight, minus_one)
            bytes = Gather <axis = 0> (eights, eight_row)
            by_eight = Cast <to = 1> (bytes)
            levels = Sum (by_one, by_two, by_four, by_eight)
            stored_scales = Gather <axis = 0> (scale, indices)
            scales = Cast <to = 1> (stored_scales)
            row_scales = Unsqueeze (scales, last)
            rows = Mul (levels, row_scales)
        }""",
    ),
}
