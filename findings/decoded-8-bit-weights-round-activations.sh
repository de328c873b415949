#!/bin/bash
# A float MatMul of a decoded 8-bit weight runs with activations rounded to 8 bits, by default.
#
# Seen with onnxruntime 1.32.0 (CPU): DequantizeLinear of an int8 constant with a scale per column, then MatMul with a float
# left side, becomes MatMulNBits with accuracy_level 4. The graph says nothing of 8-bit activations, and other
# runtimes multiply in float. With session option session.qdq_matmulnbits_accuracy_level 0, or without optimizations, the result
# is the float product. So who judges a file meant for another runtime (an NPU) on the CPU judges something else.
# A good guess: optimizations keep float products float up to rounding.
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
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

K, N = 256, 128
rng = np.random.default_rng(0)
codes, scales = rng.integers(-127, 128, (K, N)).astype(np.int8), rng.uniform(0.01, 0.02, N).astype(np.float32)
x = rng.standard_normal((8, K)).astype(np.float32)
nodes = [
    helper.make_node("DequantizeLinear", ["codes", "scales"], ["w"], axis=1),
    helper.make_node("MatMul", ["x", "w"], ["y"]),
]
infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size]) for name, size in (("x", K), ("y", N))]
weights = [numpy_helper.from_array(codes, "codes"), numpy_helper.from_array(scales, "scales")]
graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], weights)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
want = x.astype(np.float64) @ (codes * scales.astype(np.float64))


def db(level=ort.GraphOptimizationLevel.ORT_ENABLE_ALL, **settings):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    for name, value in settings.items():
        options.add_session_config_entry(f"session.{name}", value)
    got = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    return 10 * np.log10(np.square(want).sum() / np.square(want - got).sum())


default, float_level = db(), db(qdq_matmulnbits_accuracy_level="0")
unoptimized = db(ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
print(f"onnxruntime {ort.__version__}, against the product in float64:")
print(f"  as it comes                               {default:.1f} dB")
print(f"  qdq_matmulnbits_accuracy_level 0          {float_level:.1f} dB")
print(f"  without optimizations                     {unoptimized:.1f} dB")
sys.exit(not (default < 60 and float_level > 100 and unoptimized > 100))
PY
