"""Hand-made transformer-shaped models of a few nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from tests.graph import handmade

ENCODER = """
<ir_version: 9, opset_import: ["" : 18]>
encoder (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask, int64[batch, sequence] token_type_ids)
    => (float[batch, sequence, 8] last_hidden_state) {
  words = Gather (table, input_ids)
  types = Gather (segments, token_type_ids)
  both = Add (words, types)
  float_mask = Cast <to = 1> (attention_mask)
  last = Constant <value_ints = [-1]> ()
  column = Unsqueeze (float_mask, last)
  masked = Mul (both, column)
  last_hidden_state = MatMul (masked, weight)
}
"""

DECODER = """
<ir_version: 9, opset_import: ["" : 18]>
decoder (int64[batch_size, sequence_length] input_ids,
         int64[batch_size, "past_sequence_length + sequence_length"] attention_mask,
         int64[batch_size, sequence_length] position_ids,
         float[batch_size, 2, past_sequence_length, 4] "past_key_values.0.key")
    => (float[batch_size, sequence_length, 12] logits, float[batch_size, 2, total, 4] "present.0.key") {
  words = Gather (table, input_ids)
  places = Gather (positions, position_ids)
  both = Add (words, places)
  logits = MatMul (both, weight)
  shape = Constant <value_ints = [0, -1, 2, 4]> ()
  heads = Reshape (both, shape)
  key = Transpose <perm = [0, 2, 1, 3]> (heads)
  "present.0.key" = Concat <axis = 2> ("past_key_values.0.key", key)
}
"""


def encoder(seed: int = 0, vocabulary: int = 12) -> onnx.ModelProto:
    """Token and segment tables, a mask and one matrix: `last_hidden_state` [batch, sequence, 8]."""
    rng = np.random.default_rng(seed)
    arrays = {"table": (vocabulary, 8), "segments": (2, 8), "weight": (8, 8)}
    return _model(ENCODER, {name: rng.standard_normal(shape) for name, shape in arrays.items()})


def decoder(seed: int = 0) -> onnx.ModelProto:
    """Token and position tables, one matrix to 12 logits, and a cache input of the usual names."""
    rng = np.random.default_rng(seed)
    arrays = {"table": (12, 8), "positions": (16, 8), "weight": (8, 12)}
    return _model(DECODER, {name: rng.standard_normal(shape) for name, shape in arrays.items()})


def classifier(weight: np.ndarray[Any, Any], table: np.ndarray[Any, Any], *, masked: bool = True) -> onnx.ModelProto:
    """Logits [batch, classes]: the sum of the (unmasked) tokens' rows of `table`, times `weight`."""
    inputs = "int64[batch, sequence] input_ids" + (", int64[batch, sequence] attention_mask" if masked else "")
    body = "column = Unsqueeze (Cast_mask, last) product = Mul (words, column) chosen = Identity (product)"
    text = f"""
    <ir_version: 9, opset_import: ["" : 18]>
    classifier ({inputs}) => (float[batch, {weight.shape[1]}] logits) {{
      words = Gather (table, input_ids)
      last = Constant <value_ints = [-1]> ()
      {"Cast_mask = Cast <to = 1> (attention_mask) " + body if masked else "chosen = Identity (words)"}
      axis = Constant <value_ints = [1]> ()
      total = ReduceSum <keepdims = 0> (chosen, axis)
      logits = MatMul (total, weight)
    }}
    """
    return _model(text, {"weight": weight, "table": table})


def with_fixed(model: onnx.ModelProto, **sizes: int) -> onnx.ModelProto:
    """The model with symbolic input dimensions of these names made fixed."""
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    return model


def _model(text: str, arrays: dict[str, np.ndarray[Any, Any]]) -> onnx.ModelProto:
    model = handmade.parse(text)
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    onnx.checker.check_model(model)
    return model
