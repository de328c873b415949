#!/bin/bash
# A DequantizeLinear of int32 in front of an operator that only moves data does not load in ONNX Runtime.
#
# Seen with onnxruntime 1.32.0, onnx 1.23.2 (CPU). DequantizeLinear takes int32 (the standard says so, and the CPU
# provider has the kernel), and the model runs with graph optimizations disabled. From level "basic" on the runtime's own
# propagation puts QuantizeLinear and DequantizeLinear behind Reshape, Transpose, Slice, Squeeze, Unsqueeze and MaxPool;
# the standard has no QuantizeLinear to int32 but for biases, the provider no kernel: NOT_IMPLEMENTED at load.
# A good guess: optimizations never turn a model that loads into one that does not. What loads everywhere: Cast and Mul.
#
# Exits 0 while that is so, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime as ort

ort.set_default_logger_severity(4)
TEXT = """<ir_version: 10, opset_import: ["": 23]> g (int32[1, 4, 8] x) => (float y)
<float s = {0.01}, int64[1] a = {0}, int64[1] e = {2}, int64[2] flat = {0, -1}> { %s  m = %s  y = Relu (m) }"""
MOVES = {
    "Reshape": "Reshape (d, flat)",
    "Transpose": "Transpose <perm = [0, 2, 1]> (d)",
    "Slice": "Slice (d, a, e, a)",
    "Squeeze": "Squeeze (d, a)",
    "Unsqueeze": "Unsqueeze (d, a)",
    "MaxPool": "MaxPool <kernel_shape = [2]> (d)",
    "Gather": "Gather (d, a)",
}
FORMS = {"DequantizeLinear": "d = DequantizeLinear (x, s)", "Cast, Mul": "c = Cast <to = 1> (x)  d = Mul (c, s)"}


def loads(text: str, level: str) -> str:
    model = onnx.parser.parse_model(text)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        session.run(None, {"x": np.zeros((1, 4, 8), np.int32)})
    except Exception as error:
        return "fails: " + str(error)[-72:]
    return "runs"


found = {}
for form, text in FORMS.items():
    for name, move in MOVES.items():
        for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"):
            found[form, name, level] = loads(TEXT % (text, move), level)
            print(f"{form:17} {name:10} {level:17} {found[form, name, level]}")
fails = {key for key, said in found.items() if said != "runs"}
wanted = {
    ("DequantizeLinear", name, level)
    for name in MOVES
    if name != "Gather"
    for level in ("ORT_ENABLE_BASIC", "ORT_ENABLE_ALL")
}
sys.exit(fails != wanted)
PY
