#!/bin/bash
# A T5 that optimum has exported with its cache does not run in PyTorch any more, in the process that exported it.
#
# Seen with optimum-onnx 0.1.0, optimum 2.1.0, transformers 4.57.6, torch 2.13.0. onnx_export_from_model sets use_cache in
# the configuration of the model that it is given, and of its encoder and decoder, and leaves it so; the encoder refuses
# that ("`use_cache` can only be set to `True` if T5Stack is used as a decoder"). Whoever compares the exported parts with
# the model afterwards has to load it once more. A good guess: exporting leaves the model as it was.
#
# Exits 0 while that is so, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q optimum-onnx==0.1.0 optimum==2.1.0 transformers==4.57.6 onnx==1.23.2 onnxruntime==1.32.0
cat > "$folder/run.py" <<'PY'
import sys

import torch
from optimum.exporters.onnx import onnx_export_from_model
from transformers import T5Config, T5ForConditionalGeneration

sizes = {"vocab_size": 60, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
model = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)).eval()
model.config.use_cache = False
ids = torch.tensor([[5, 6, 7, 1]])


def runs():
    try:
        model(input_ids=ids, decoder_input_ids=ids)
    except ValueError as error:
        return "use_cache" not in str(error)
    return True


def configured():
    return [part.config.use_cache for part in (model, model.encoder, model.decoder)]


before = runs(), configured()
onnx_export_from_model(model, output=sys.argv[1], task="text2text-generation-with-past", do_validation=False)
after = runs(), configured()
print("runs, use_cache of the model, its encoder and decoder: before", before, "after", after)
raise SystemExit(0 if before[0] and not after[0] else 1)
PY
"$folder/venv/bin/python" "$folder/run.py" "$folder/onnx" 2> "$folder/log" || { code=$?; tail -3 "$folder/log"; exit $code; }
