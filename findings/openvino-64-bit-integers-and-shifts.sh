#!/bin/sh
# OpenVINO 2026.4.1, CPU: 64-bit integers are computed in 32 bits, and BitShift to the right rounds where it should cut.
# Both without a word: files that rely on either give other numbers there.
#
#     pip install openvino onnx && sh findings/openvino-64-bit-integers-and-shifts.sh
#
# prints, where it is so:
#     Mul of 64-bit integers: 2097152 x 2097152 is 0, not 4398046511104
#     BitShift: 7 >> 2 is 2, not 1
exec "${PYTHON:-python}" - <<'PY'
import numpy as np
import onnx.parser
import openvino

core = openvino.Core()


def run(text, *inputs):
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU")
    return compiled(list(inputs))[0]


big = np.full(4, 1 << 21, np.int64)
product = run("g (int64[n] x, int64[n] y) => (int64[n] z) { z = Mul (x, y) }", big, big)
if product[0] != 1 << 42:
    print(f"Mul of 64-bit integers: {big[0]} x {big[0]} is {product[0]}, not {1 << 42}")
shifted = run(
    'g (uint8[n] x, uint8[n] y) => (uint8[n] z) { z = BitShift <direction = "RIGHT"> (x, y) }',
    np.full(4, 7, np.uint8),
    np.full(4, 2, np.uint8),
)
if shifted[0] != 1:
    print(f"BitShift: 7 >> 2 is {shifted[0]}, not 1")
PY
