#!/bin/bash
# In a process that is bound to one CPU when it imports onnxruntime, int8 products do not use AMX, whatever the CPU's flags say.
#
# Seen with onnxruntime 1.32.0 on a CPU with AMX: u8 x s8 products of 1,024 rows reach 1,270 to 1,940 GOPS in a process that may
# use any CPU, and 510 to 620 (VNNI) in one started with taskset -c 0. It tries at load whether tiles survive a move to another
# CPU, and leaves AMX off where it cannot try; binding after the import keeps it. A benchmark that binds itself measures
# another kernel than the program that it stands for.
# A good guess: binding a process to a CPU, as benchmarks do, changes noise and no kernels.
#
# Exits 0 while that is so, and on a CPU without AMX, where there is nothing to see; 1 when it changes.
set -euo pipefail
grep -q amx_int8 /proc/cpuinfo || { echo "no AMX on this CPU: nothing to see"; exit 0; }
[ "$(nproc)" -gt 1 ] || { echo "this process is bound to one CPU already: nothing to compare"; exit 0; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy
cat > "$folder/gops.py" <<'PY'
import time

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

ROWS, SIZE = 1024, 768
rng = np.random.default_rng(0)
x = helper.make_tensor_value_info("x", TensorProto.UINT8, ["rows", SIZE])
y = helper.make_tensor_value_info("y", TensorProto.INT32, ["rows", SIZE])
weight = numpy_helper.from_array(rng.integers(-64, 65, (SIZE, SIZE)).astype(np.int8), "w")
graph = helper.make_graph([helper.make_node("MatMulInteger", ["x", "w"], ["y"])], "g", [x], [y], [weight])
options = ort.SessionOptions()
options.intra_op_num_threads = 1
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
feeds, times = {"x": rng.integers(0, 255, (ROWS, SIZE)).astype(np.uint8)}, []
for _ in range(20):
    start = time.perf_counter()
    session.run(None, feeds)
    times.append(time.perf_counter() - start)
print(round(2 * ROWS * SIZE * SIZE / min(times) / 1e9))
PY
free=$("$folder/venv/bin/python" "$folder/gops.py")
bound=$(taskset -c 0 "$folder/venv/bin/python" "$folder/gops.py")
echo "onnxruntime 1.32.0, u8 x s8 products of one thread: $free GOPS, bound to one CPU $bound"
[ "$free" -gt $((bound * 3 / 2)) ]
