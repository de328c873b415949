#!/bin/bash
# LayerNormalization behind an addition, with a bias that is left out by an empty name: loading it is a segmentation fault.
#
# Seen with onnxruntime 1.32.0, onnx 1.23.2 (CPU). ONNX leaves optional inputs out in two ways: they are not listed, or
# listed with an empty name, as full checks of onnx allow. SkipLayerNormFusion reads the shape of the third input wherever
# three are listed. A bias of no elements, which the operator itself takes for none, makes the same fusion fail on every
# run ("Last dimension of beta and input does not match"). A good guess: names of optional inputs that are empty are not
# listed at the end of a node. All runs with graph optimizations disabled.
#
# Exits 0 while that is so, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy
cat > "$folder/run.py" <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime as ort

kind, optimized = sys.argv[1], sys.argv[2] == "optimized"
ort.set_default_logger_severity(4)
model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]> g (float[b, s, 8] x, float[b, s, 8] r)
    => (float[b, s, 8] y) { a = Add (x, r)  y = LayerNormalization (a, scale) }""")
model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(8, np.float32), "scale"))
if kind == "named empty":
    model.graph.node[1].input.append("")
if kind == "of no elements":
    model.graph.node[1].input.append("bias")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(0, np.float32), "bias"))
options = ort.SessionOptions()
if not optimized:
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
x = np.ones((2, 3, 8), np.float32)
session.run(None, {"x": x, "r": x})
PY
same=0
for kind in "not listed" "named empty" "of no elements"; do
  for level in disabled optimized; do
    code=0
    "$folder/venv/bin/python" "$folder/run.py" "$kind" "$level" 2> "$folder/errors" || code=$?
    echo "$kind, $level: exit code $code"
    expected=0
    [ "$level" = optimized ] && [ "$kind" = "named empty" ] && expected=139
    [ "$level" = optimized ] && [ "$kind" = "of no elements" ] && expected=1
    [ "$code" = "$expected" ] || same=1
  done
done
exit $same
