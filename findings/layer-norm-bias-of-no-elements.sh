#!/bin/bash
# LayerNormalization takes a bias of no elements for none; behind an addition, its own fusion makes the run fail.
#
# Seen with onnxruntime 1.32.0, onnx 1.23.2 (CPU). With graph optimizations disabled the model runs, and gives what it
# gives without a bias. With them SkipLayerNormFusion puts the addition into the normalization, whose kernel then compares
# sizes: "Last dimension of beta and input does not match" on every run. A good guess: what the operator takes for none,
# the fusion takes for none, or it does not fuse.
#
# Exits 0 while that is so, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy
cat > "$folder/run.py" <<'PY'
import numpy as np
import onnx
import onnxruntime as ort

ort.set_default_logger_severity(4)
model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]> g (float[b, s, 8] x, float[b, s, 8] r)
    => (float[b, s, 8] y) { a = Add (x, r)  y = LayerNormalization (a, scale) }""")
model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(8, np.float32), "scale"))
x = np.arange(48, dtype=np.float32).reshape(2, 3, 8) ** 2


def run(level):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x, "r": x})[0]


plain = run(ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
model.graph.node[1].input.append("bias")
model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(0, np.float32), "bias"))
same = np.array_equal(run(ort.GraphOptimizationLevel.ORT_DISABLE_ALL), plain)
try:
    run(ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    optimized = "runs"
except Exception as error:
    optimized = "does not match" if "does not match" in str(error) else str(error)
print("disabled: as without a bias:", same, "| optimized:", optimized)
raise SystemExit(0 if same and optimized == "does not match" else 1)
PY
"$folder/venv/bin/python" "$folder/run.py"
