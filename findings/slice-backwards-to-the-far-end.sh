#!/bin/bash
# Slice backwards to INT64_MAX, and NonZero of a single number: ONNX and ONNX Runtime say different things.
#
# Seen with onnxruntime 1.32.0, onnx 1.23.2 (CPU); both models are valid, and both give a result without a word.
# - Slice of 3 elements with start 2, end INT64_MAX, step -1. ONNX clamps the end to the last element, as numpy does: its
#   shape inference and its reference evaluator give no element. ONNX Runtime takes an end of INT32_MAX or INT64_MAX for
#   "to the end of the direction" and gives all three, although it infers 0 of them.
# - NonZero of a tensor of rank 0. ONNX gives [0, n], one row for each of no dimensions; ONNX Runtime gives [1, n].
# A good guess: what shape inference says of a model is what the runtime computes. So who folds a Shape by inference
# changes such a model. (The end to write backwards is INT64_MIN, which all read alike.)
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
from onnx.reference import ReferenceEvaluator

ort.set_default_logger_severity(4)
HEAD = '<ir_version: 10, opset_import: ["": 21]> g '
SLICE = HEAD + """(int64[3] x) => (int64[n] y)
<int64[1] start = {2}, int64[1] end = {%d}, int64[1] axis = {0}, int64[1] step = {-1}>
{ y = Slice (x, start, end, axis, step) }"""
CASES = {
    "Slice to INT64_MAX": (SLICE % (2**63 - 1), np.arange(3)),
    "Slice to INT32_MAX": (SLICE % (2**31 - 1), np.arange(3)),
    "Slice to INT64_MIN": (SLICE % -(2**63), np.arange(3)),
    "NonZero of a number": (HEAD + "(int64 x) => (int64[r, n] y) { y = NonZero (x) }", np.array(7)),
}
EXPECTED = {
    "Slice to INT64_MAX": ((0,), (0,), (3,)),
    "Slice to INT32_MAX": ((0,), (0,), (3,)),
    "Slice to INT64_MIN": ((3,), (3,), (3,)),
    "NonZero of a number": ((0, "?"), (0, 1), (1, 1)),
}


def inferred(model: onnx.ModelProto) -> tuple[int | str, ...]:
    open_model = onnx.ModelProto.FromString(model.SerializeToString())
    open_model.graph.output[0].type.tensor_type.ClearField("shape")
    output = onnx.shape_inference.infer_shapes(open_model).graph.output[0]
    sizes = output.type.tensor_type.shape.dim
    return tuple(size.dim_value if size.HasField("dim_value") else "?" for size in sizes)


print("onnxruntime", ort.__version__, "onnx", onnx.__version__)
found = {}
for name, (text, x) in CASES.items():
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    reference = ReferenceEvaluator(model).run(None, {"x": x})[0]
    found[name] = inferred(model), reference.shape, session.run(None, {"x": x})[0].shape
    print(f"{name}: inferred {found[name][0]}, reference {found[name][1]}, ONNX Runtime {found[name][2]}")
sys.exit(found != EXPECTED)
PY
