#!/bin/bash
# ONNX Runtime folds no constant above 1 GiB, and says so in a log line of level warning alone: it is computed on every run.
#
# Seen with onnxruntime 1.32.0 (CPU): a Cast of a constant to 2**28 floats is a constant once the session is created; with
# one value more, the Cast and all behind it stay and run on every call, at every optimization level. What counts is the
# size of a node's outputs, in bytes; session option optimization.constant_folding_max_output_size_in_bytes moves the limit
# (0: none). An output layer of 128k x 4096 that is stored in few bits and decoded by arithmetic on constants is 2 GiB.
# A good guess: what depends on constants alone is computed once, whatever its size, or the session refuses.
#
# Takes 1.5 GB of memory. Exits 0 while that is so, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy
"$folder/venv/bin/python" - "$folder" <<'PY'
import sys

import onnx
import onnxruntime as ort

TEXT = """<ir_version: 10, opset_import: ["": 21]>
g (float[1] x) => (float[1] y) <uint8[1] w = {3}, int64[1] n = {%d}> {
    bytes = Expand (w, n)
    floats = Cast <to = 1> (bytes)
    largest = ReduceMax <keepdims = 1> (floats)
    y = Add (x, largest)
}"""


def left(count: int, **settings: str) -> list[str]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = f"{sys.argv[1]}/optimized.onnx"
    for name, value in settings.items():
        options.add_session_config_entry(f"optimization.{name}", value)
    model = onnx.parser.parse_model(TEXT % count).SerializeToString()
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


below, above = left(1 << 28), left((1 << 28) + 1)
small = left(1 << 10, constant_folding_max_output_size_in_bytes="4095")
print(f"onnxruntime {ort.__version__}, nodes that run on every call")
print("  2**28 floats, 1 GiB             ", *below)
print("  one float more                  ", *above)
print("  1,024 floats, limit of 4,095    ", *small)
sys.exit(not (below == ["Add"] and "Cast" in above and "Cast" in small))
PY
