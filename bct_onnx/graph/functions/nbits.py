"""The form of few-bit weights that `MatMulNBits` takes, made from the portable one: functions of the domain `ai.bct`.

Their inputs are constants, so ONNX Runtime folds them once when a session is created (see `bct_onnx.graph.functions`).
"""

from __future__ import annotations

TEXTS = {
    "PackNibbles": (
        "Few-bit codes as MatMulNBits takes them with 4 bits: [N, blocks, block / 2] bytes, low nibbles first; stored ="
        " code + 8. `perm` brings the codes to [N, K], where block divides K; `shape` is [0, -1, block / 2, 2].",
        """
        PackNibbles <perm, shape> (codes) => (packed) {
            small = Cast <to = 3> (codes)
            eight = Constant <value = int8 {8}> ()
            moved = Add (small, eight)
            unsigned = Cast <to = 2> (moved)
            rows = Transpose <perm: ints = @perm> (unsigned)
            grouping = Constant <value_ints: ints = @shape> ()
            pairs = Reshape (rows, grouping)
            apart = Transpose <perm = [3, 0, 1, 2]> (pairs)
            zero = Constant <value_int = 0> ()
            one = Constant <value_int = 1> ()
            sixteen = Constant <value = uint8 {16}> ()
            low = Gather <axis = 0> (apart, zero)
            high = Gather <axis = 0> (apart, one)
            raised = Mul (high, sixteen)
            packed = Add (low, raised)
        }""",
    ),
    "PackBytes": (
        "int8 codes as MatMulNBits takes them with 8 bits: [N, blocks, block] bytes; stored = code + 128. `shape` is"
        " [0, -1, block]. Bytes wrap around.",
        """
        PackBytes <perm, shape> (codes) => (packed) {
            bytes = Cast <to = 2> (codes)
            half = Constant <value = uint8 {128}> ()
            unsigned = Add (bytes, half)
            rows = Transpose <perm: ints = @perm> (unsigned)
            grouping = Constant <value_ints: ints = @shape> ()
            packed = Reshape (rows, grouping)
        }""",
    ),
    "BlockScales": (
        "Float scales [N, blocks] of a two-level weight: one small multiplier per block times one scale per column;"
        " `perm` brings multipliers to [N, blocks].",
        """
        BlockScales <perm> (multipliers, scale) => (scales) {
            last = Constant <value_ints = [-1]> ()
            factors = Cast <to = 1> (multipliers)
            rows = Transpose <perm: ints = @perm> (factors)
            column = Unsqueeze (scale, last)
            scales = Mul (rows, column)
        }""",
    ),
}
"""Documentation and text of each function, by its name."""
