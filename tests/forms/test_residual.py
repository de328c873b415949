"""A residual sum of integers is read back as it was written, and gives the sum of what its codes stand for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.forms import codes, residual
from bct_onnx.graph.edit import Edit
from tests.passes.small import model, normal, outputs

CHANNELS = 8


@pytest.mark.parametrize("per_channel", [False, True], ids=["one scale", "a scale per channel"])
def test_both_sides_are_read_back(per_channel: bool) -> None:
    target = model(
        """g (uint8[n,8] a, int16[n,8] b) => (float[n,8] y) {
            p = Cast <to = 1> (a)  q = Cast <to = 1> (b)  y = Add (p, q) }"""
    )
    node, (a, b) = target.graph[-1], target.graph.inputs
    edit = Edit(node)
    scale = np.full(CHANNELS if per_channel else (), 0.25, np.float32)
    sides = (
        residual.Side(a, edit.constant("a.scale", scale), edit.scalar("a.zero", 128, ir.DataType.UINT8)),
        residual.Side(b, edit.scalar("b.scale", 0.5, ir.DataType.FLOAT), edit.scalar("b.zero", 0, ir.DataType.INT16)),
    )
    total = residual.write(target, edit, sides, 0.125, node.outputs[0])
    (box,) = (each for each in edit.made if each.op_type == "IntegerAdd")
    assert residual.read(box) == sides
    behind = codes.read(total)
    assert behind is not None and behind.codes is box.outputs[0] and behind.step == 0.125
    edit.replace(node.outputs[0], total)
    left, right = np.arange(16, dtype=np.uint8).reshape(2, 8), (10 * normal(2, 8)).astype(np.int16)
    for (result,) in outputs(target, a=left, b=right).values():
        np.testing.assert_array_equal(result, (left.astype(np.float32) - 128) * 0.25 + right * 0.5)
