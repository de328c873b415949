"""Caches whose sizes a model leaves free and its attention does not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bct_onnx.runtime.session import session
from bct_onnx.runtime.understanding import Sampler, caches


def decoder(packed: bool) -> onnx.ModelProto:
    """As onnxruntime-genai's builder declares it: the last axis of the cache is free. Four heads of 16, two shared."""
    keys = "k = MatMul (x, wk) v = MatMul (x, wk)" if not packed else ""
    inputs = "q, k, v" if not packed else "q, , "
    proto = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
        g (int64[batch,tokens] input_ids, int64[batch,total_sequence_length] attention_mask,
           float[batch,2,past_sequence_length,kv_cache_dim] past_key,
           float[batch,2,past_sequence_length,kv_cache_dim] past_value)
        => (float[batch,tokens,64] y, float[batch,2,total_sequence_length,kv_cache_dim] present_key,
            float[batch,2,total_sequence_length,kv_cache_dim] present_value) {{
            x = Gather (table, input_ids) q = MatMul (x, wq) {keys}
            axis = Constant <value_ints = [1]> () one = Constant <value_int = 1> ()
            count = ReduceSum <keepdims = 0> (attention_mask, axis) less = Sub (count, one)
            last = Cast <to = 6> (less) size = Shape <start = 1, end = 2> (attention_mask) total = Cast <to = 6> (size)
            y, present_key, present_value = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2>
                ({inputs}, past_key, past_value, last, total) }}"""
    )
    for name, columns in {"wq": 128 if packed else 64, "wk": 32}.items():
        weight = np.random.default_rng(columns).standard_normal((24, columns)).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    table = np.random.default_rng(9).standard_normal((30, 24)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    return proto


@pytest.mark.parametrize("packed", [False, True], ids=["apart", "packed"])
def test_heads_and_their_channels_are_read_from_the_attention(packed: bool) -> None:
    proto = decoder(packed)
    model = ir.from_proto(proto)
    assert caches.known(model) == {"past_key": {1: 2, 3: 16}, "past_value": {1: 2, 3: 16}}
    sampler = Sampler(model, session(proto.SerializeToString()))
    assert sampler.meaningful, sampler.reason
    assert sampler.sample(2, 5, past=3)["past_key"].shape == (2, 2, 3, 16)
