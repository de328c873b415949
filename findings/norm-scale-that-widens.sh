#!/bin/bash
# A scale that widens what was normalized: ONNX Runtime fuses the nodes all the same, and then cannot run them.
#
# Seen with onnxruntime 1.32.0, onnx 1.23.2 (CPU). A normalization over one column, spelled out in ReduceMean, Pow, Sqrt
# and Div, times a vector of 64: broadcasting makes 64 columns of one. The model is valid and runs with graph
# optimizations disabled. At the default level LayerNormFusion and SimplifiedLayerNormFusion take the vector for the scale
# of LayerNormalization, whose scale may not be wider than its input: the model loads, and every run is INVALID_ARGUMENT.
# A good guess: a fusion is left alone whose operator cannot compute the nodes. What runs at every level, with the same
# bits: Expand in front of the product.
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
KINDS = {"layer norm": "m = ReduceMean <axes = [-1]> (x)  d = Sub (x, m)", "RMS norm": "d = Identity (x)"}
TEXT = """<ir_version: 8, opset_import: ["": 17]> g (float[b, s, 1] x) => (float[b, s, 64] y)
<float two = {2}, float eps = {1e-5}, float[64] scale = {%s}, int64[1] wide = {64}>
{ %s  q = Pow (d, two)  v = ReduceMean <axes = [-1]> (q)  e = Add (v, eps)  r = Sqrt (e)  n = Div (d, r)
  %s  y = Mul (w, scale) }"""
FORMS = {"product": "w = Identity (n)", "Expand, product": "w = Expand (n, wide)"}


def result(model: onnx.ModelProto, optimized: bool) -> str:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    try:
        return str(session.run(None, {"x": np.ones((2, 3, 1), np.float32)})[0].shape)
    except Exception as error:
        return type(error).__name__


print("onnxruntime", ort.__version__)
found = {}
for kind, start in KINDS.items():
    for form, widening in FORMS.items():
        model = onnx.parser.parse_model(TEXT % (", ".join(["0.5"] * 64), start, widening))
        onnx.checker.check_model(model, full_check=True)
        found[kind, form] = result(model, False), result(model, True)
        print(f"{kind}, {form}: not optimized {found[kind, form][0]}, default {found[kind, form][1]}")
runs = "(2, 3, 64)"
expected = {(kind, form): (runs, "InvalidArgument" if form == "product" else runs) for kind in KINDS for form in FORMS}
sys.exit(found != expected)
PY
