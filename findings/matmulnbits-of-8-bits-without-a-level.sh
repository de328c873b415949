#!/bin/bash
# MatMulNBits with 8-bit (and 2-bit) weights and no accuracy_level is many times slower than the float MatMul.
#
# Seen with onnxruntime 1.32.0 (CPU): the attribute is optional, and its default means "as precise as the inputs". For 4 bits
# there is a kernel for that, for 2 and 8 bits there is none: the whole weight is decoded on every call. One row times 1024 x 4096:
# 8 to 17 times slower than float32 with AVX512, 270 times with AVX2; 16 rows 60 times. With accuracy_level 4 (activations
# rounded to 8 bits per block, 45 dB) it takes about a third of float32's time.
# A good guess: fewer bytes to read, so as fast as float32 or faster; that is what the operator is for.
#
# Exits 0 while that is so, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy
"$folder/venv/bin/python" - <<'PY'
import sys
import time

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

K, N, BLOCK = 1024, 4096, 32
rng = np.random.default_rng(0)


def session(node, *constants):
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size]) for name, size in (("x", K), ("y", N))]
    weights = [numpy_helper.from_array(array, name) for name, array in constants]
    graph = helper.make_graph([node], "g", infos[:1], infos[1:], weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def nbits(bits, **level):
    codes = rng.integers(0, 256, (N, K // BLOCK, BLOCK * bits // 8)).astype(np.uint8)
    scales = np.full((N, K // BLOCK), 0.01, np.float32)
    options = {"K": K, "N": N, "bits": bits, "block_size": BLOCK, **level}
    node = helper.make_node("MatMulNBits", ["x", "codes", "scales"], ["y"], domain="com.microsoft", **options)
    return session(node, ("codes", codes), ("scales", scales))


def seconds(runner):
    x = rng.standard_normal((1, K)).astype(np.float32)
    runner.run(None, {"x": x})
    times = []
    for _ in range(9):
        start = time.perf_counter()
        runner.run(None, {"x": x})
        times.append(time.perf_counter() - start)
    return min(times)


base = seconds(session(helper.make_node("MatMul", ["x", "w"], ["y"]), ("w", rng.standard_normal((K, N)).astype(np.float32))))
slower = {
    f"{bits} bits, {said}": seconds(nbits(bits, **level)) / base
    for bits in (2, 4, 8)
    for said, level in (("no level", {}), ("accuracy_level 4", {"accuracy_level": 4}))
}
print(f"onnxruntime {ort.__version__}, one row, one thread, times as long as float32 ({base * 1e3:.2f} ms)")
for said, times in slower.items():
    print(f"  {said:26}{times:8.2f}")
sys.exit(not (slower["8 bits, no level"] > 4 and slower["8 bits, accuracy_level 4"] < slower["8 bits, no level"] / 4))
PY
