#!/bin/bash
# MultiHeadAttention that reads a cache but declares no present outputs gives other numbers, without an error.
#
# Seen with onnxruntime 1.32.0 (CPU). The operator's outputs present_key and present_value are optional. A model that
# gives past_key and past_value and only wants the result (the last layers of a fixed prefix, for instance) loads and
# runs; what comes out is neither attention over cache and new tokens nor over the new tokens alone. The same node with
# the two outputs declared is right to 140 dB.
# A good guess: optional outputs do not change the first one, or the runtime refuses the node.
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

TEXT = """<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]>
g (float[2,4,6] q, float[2,4,6] k, float[2,4,6] v, float[2,2,3,3] pk, float[2,2,3,3] pv) => (%s)
{ %s = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v, , , , pk, pv) }"""
rng = np.random.default_rng(0)
SHAPES = {"q": (2, 4, 6), "k": (2, 4, 6), "v": (2, 4, 6), "pk": (2, 2, 3, 3), "pv": (2, 2, 3, 3)}
feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def result(declared: str, names: str) -> np.ndarray:
    model = onnx.parser.parse_model(TEXT % (declared, names))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], feeds)[0]


def attention(with_cache: bool) -> np.ndarray:
    q, k, v = (feeds[name].reshape(2, 4, 2, 3).transpose(0, 2, 1, 3) for name in "qkv")
    if with_cache:
        k, v = np.concatenate([feeds["pk"], k], 2), np.concatenate([feeds["pv"], v], 2)
    scores = np.exp(q @ k.transpose(0, 1, 3, 2) / np.sqrt(3))
    return (scores / scores.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(2, 4, 6)


def db(want: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10(np.square(want).sum() / np.square(want - got).sum()))


cache = "float[2,2,t,3]"
right = result(f"float[2,4,6] y, {cache} a, {cache} b", "y, a, b")
wrong = result("float[2,4,6] y", "y")
print(f"onnxruntime {ort.__version__}, against attention over the cache and the new tokens:")
print(f"  with present outputs     {db(attention(True), right):.1f} dB")
print(f"  without                  {db(attention(True), wrong):.1f} dB")
print(f"  without, cache left out  {db(attention(False), wrong):.1f} dB")
sys.exit(not (db(attention(True), right) > 100 and db(attention(True), wrong) < 20 and db(attention(False), wrong) < 20))
PY
