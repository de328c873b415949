#!/bin/bash
# ONNX Runtime has QuantizeLinear twice, in ONNX's domain and in com.microsoft; of float16 they give other codes.
#
# Seen with onnxruntime 1.32.0 on a CPU: of 100,000 numbers from a normal distribution, 1.3 % get the neighbouring code. The
# standard operator divides in float16 (so says ONNX, where `precision` is not given), that of com.microsoft in float32. Of
# float32 both give the same codes.
# A good guess: the older operator, from which the standard one was taken over, computes the same.
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


def codes(domain: str, x: np.ndarray, scale: float) -> np.ndarray:
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    node = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"], domain=domain)
    constants = [numpy_helper.from_array(x.dtype.type(scale), "scale"), numpy_helper.from_array(np.uint8(128), "zero")]
    inputs = [helper.make_tensor_value_info("x", kind, ["n"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.UINT8, ["n"])]
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "g", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11).SerializeToString()
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0].astype(int)


x = np.random.default_rng(0).normal(0, 0.7, 100_000)
differ = {}
for kind in (np.float16, np.float32):
    apart = np.abs(codes("", x.astype(kind), 0.015) - codes("com.microsoft", x.astype(kind), 0.015))
    differ[kind.__name__] = int((apart > 0).sum())
    print(f"{kind.__name__}: {differ[kind.__name__]} of {len(x)} codes differ, by {apart.max()} at most")
sys.exit(0 if differ["float16"] > 100 and differ["float32"] == 0 else 1)
PY
