#!/bin/bash
# onnx.shape_inference.infer_shapes(model, data_prop=True) follows every number of a vector, known or not: a chain of
# elementwise operators on one input of a million bytes takes it hundreds of megabytes, where the model's file has 300 bytes.
#
# Seen with onnx 1.23.2: a Cast and nine Neg, Sub or Mul on an input uint8[1048576], whose numbers nobody knows: 0.8 GB and
# 7 s; with data_prop=False, or with the input declared as uint8[1,1048576], some MB and milliseconds. Weights in few
# bits, packed in vectors and decoded by standard operators, are such chains.
# A good guess: following data costs something where there are data to follow, and shapes have few numbers.
#
# Exits 0 while that is so, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnx==1.23.2
cat > "$folder/infer.py" <<'PY'
import resource
import sys
import time

import onnx
from onnx import TensorProto, helper

dims, follow = [int(text) for text in sys.argv[1].split("x")], sys.argv[2] == "follow"
nodes = [helper.make_node("Cast", ["x"], ["v0"], to=TensorProto.FLOAT)]
for number in range(9):
    operator = ("Neg", "Sub", "Mul")[number % 3]
    inputs = [f"v{number}"] if operator == "Neg" else [f"v{number}", f"v{max(0, number - 1)}"]
    nodes.append(helper.make_node(operator, inputs, [f"v{number + 1}"]))
x = helper.make_tensor_value_info("x", TensorProto.UINT8, dims)
y = helper.make_tensor_value_info("v9", TensorProto.FLOAT, dims)
model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 21)])
onnx.checker.check_model(model)
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
onnx.shape_inference.infer_shapes(model, data_prop=follow)
megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
print(f"{sys.argv[1]} {sys.argv[2]}: {megabytes} MB, {time.perf_counter() - start:.2f} s", file=sys.stderr)
print(megabytes)
PY
vector=$("$folder/venv/bin/python" "$folder/infer.py" 1048576 follow)
still=$("$folder/venv/bin/python" "$folder/infer.py" 1048576 leave)
matrix=$("$folder/venv/bin/python" "$folder/infer.py" 1x1048576 follow)
if [ "$vector" -gt 200 ] && [ "$still" -lt 50 ] && [ "$matrix" -lt 50 ]; then
    echo "as described: $vector MB for a vector, $still MB without following data, $matrix MB for a matrix"
else
    echo "changed: $vector MB, $still MB, $matrix MB"
    exit 1
fi
