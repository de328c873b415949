#!/bin/bash
# onnxruntime-genai refuses a decoder of type "gpt2" with one cache for keys and one for values; as type "decoder" it runs.
#
# Seen with onnxruntime-genai 0.18.0. A genai_config.json with past_key_names and past_value_names is what all other
# decoders have. With "type": "gpt2" (the model_type of such checkpoints) the generator is not made:
#   RuntimeError: Model input was not found:
# and no name follows the colon, for it asks for one combined cache (past_names), which the configuration leaves empty.
# The same folder with "type": "decoder" makes a generator and generates tokens.
# A good guess: a family's own name works like the general one, or the message names the missing key.
#
# Exits 0 while that is so, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnxruntime-genai==0.18.0 onnx==1.23.2 numpy
"$folder/venv/bin/python" - "$folder" <<'PY'
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime_genai as og

folder = Path(sys.argv[1])
rng = np.random.default_rng(0)
INT, FLOAT = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info


def constant(name: str, array: np.ndarray) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(array, name)


constants = [constant("shape", np.array([0, 1, -1, 8]))]
constants.append(constant("rows", rng.standard_normal((16, 8)).astype(np.float32)))
constants.append(constant("table", rng.standard_normal((16, 16)).astype(np.float32)))
inputs = [value("input_ids", INT, ["batch", "tokens"]), value("attention_mask", INT, ["batch", "total"])]
outputs = [value("logits", FLOAT, ["batch", "tokens", 16])]
nodes = [node("Gather", ["rows", "input_ids"], ["looked_up"]), node("Reshape", ["looked_up", "shape"], ["new"])]
nodes.append(node("Gather", ["table", "input_ids"], ["logits"]))
for part in ("key", "value"):
    inputs.append(value(f"past_key_values.0.{part}", FLOAT, ["batch", 1, "past", 8]))
    outputs.append(value(f"present.0.{part}", FLOAT, ["batch", 1, "total", 8]))
    nodes.append(node("Concat", [f"past_key_values.0.{part}", "new"], [f"present.0.{part}"], axis=2))
graph = onnx.helper.make_graph(nodes, "g", inputs, outputs, constants)
model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 21)])
onnx.save(model, folder / "model.onnx")


def generate(kind: str) -> str:
    """How many tokens come out for a configuration of this type, or what is raised."""
    decoder = {
        "session_options": {"log_id": "genai", "provider_options": []},
        "filename": "model.onnx",
        "head_size": 8,
        "hidden_size": 8,
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "num_key_value_heads": 1,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    sizes = {"type": kind, "context_length": 32, "vocab_size": 16}
    tokens = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = {"model": {**sizes, **tokens, "decoder": decoder}, "search": {"max_length": 8}}
    (folder / "genai_config.json").write_text(json.dumps(config))
    try:
        loaded = og.Model(str(folder))
        parameters = og.GeneratorParams(loaded)
        parameters.set_search_options(max_length=8)
        generator = og.Generator(loaded, parameters)
        generator.append_tokens([3, 5])
        while not generator.is_done():
            generator.generate_next_token()
        return f"{len(generator.get_sequence(0)) > 2}"
    except RuntimeError as error:
        return f"RuntimeError: {error}".strip()


general, own = generate("decoder"), generate("gpt2")
print(f"decoder: tokens were generated: {general}")
print(f"gpt2: {own}")
sys.exit(0 if general == "True" and own == "RuntimeError: Model input was not found:" else 1)
PY
