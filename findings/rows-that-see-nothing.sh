#!/bin/bash
# A row of Attention (opset 23) that sees nothing: three versions of onnxruntime give three answers for the same file.
#
# Seen with onnxruntime 1.23.2, 1.24.1 and 1.32.0 (CPU), a boolean mask that hides a whole row, as the padding of a text
# that is padded on the left has it: NaN in 1.23.2, the mean of all values in 1.24.1, 0 in 1.32.0. The operator's
# definition adds minus infinity to every score of the row and takes the softmax of that. In a model of several layers NaN
# of hidden rows reaches all others, for 0 times NaN is NaN.
# A good guess: all versions compute the same for a standard operator of one opset.
#
# Exits 0 while that is so, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/seen.py" <<'PY'
import numpy as np
import onnx
import onnxruntime as ort

TEXT = """<ir_version: 10, opset_import: ["": 23]>
g (float[1,1,4,8] q, float[1,1,4,8] k, float[1,1,4,8] v, bool[4,4] m) => (float[1,1,4,8] y)
{ y = Attention (q, k, v, m) }"""
rng = np.random.default_rng(0)
feeds = {name: rng.standard_normal((1, 1, 4, 8)).astype(np.float32) for name in "qkv"}
feeds["m"] = np.ones((4, 4), bool)
feeds["m"][0] = False
session = ort.InferenceSession(onnx.parser.parse_model(TEXT).SerializeToString(), providers=["CPUExecutionProvider"])
rows = session.run(None, feeds)[0][0, 0]
hidden = "something else"
if np.isnan(rows[0]).all():
    hidden = "NaN"
elif not rows[0].any():
    hidden = "0"
elif np.allclose(rows[0], feeds["v"][0, 0].mean(0), atol=1e-6):
    hidden = "mean"
print(hidden, "others finite" if np.isfinite(rows[1:]).all() else "others not finite")
PY
answers=""
for version in 1.23.2 1.24.1 1.32.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install -q "onnxruntime==$version" onnx==1.20.0 numpy
  answer=$("$folder/$version/bin/python" "$folder/seen.py")
  echo "a row that sees nothing, onnxruntime $version: $answer"
  answers="$answers$answer; "
done
[ "$answers" = "NaN others finite; mean others finite; 0 others finite; " ]
