"""A small model of tokens, and what calibration has left in one."""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.runtime.statistics import KEY, ChannelStatistics
from tests.passes.small import normal

TEXT = """g (int64[batch,sequence] input_ids) => (float[batch,sequence,32] y) {
    h = Gather (table, input_ids)
    a = Neg (h)
    y = MatMul (a, w)
}"""
ARRAYS = {"table": normal(40, 64), "w": normal(64, 32, seed=1)}


def statistics(target: ir.Model, name: str) -> ChannelStatistics:
    """What the pass has left beside the value ``name``."""
    found = {value.name: value for node in target.graph for value in node.outputs}[name].meta[KEY]
    assert isinstance(found, ChannelStatistics)
    return found


def measured(target: ir.Model) -> set[str]:
    return {value.name or "" for node in target.graph for value in node.outputs if KEY in value.meta}
