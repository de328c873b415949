"""Presets and targets on the oldest versions: each result loads and runs there. Names a folder to write to."""

import sys
from pathlib import Path

import onnx_ir as ir

from bct_onnx import rewrite
from bct_onnx.rewriting import Options

MODEL = Path(__file__).resolve().parents[1] / "models/tiny-bert-sst2/model.onnx"
NOISE = """<ir_version: 8, opset_import: ["": 15]> noise (float[n,32] x, float[1] scale) => (float[n,32] y)
    { r = RandomNormalLike (x)  s = Mul (r, scale)  y = Add (x, s) }"""

for preset, target in (
    ("w4a8-nearest", "ort-cpu"),
    ("w4a8-nearest", "ort-cpu-integer"),
    ("fast", "ort-cpu"),
    ("bct", "ort-cpu-integer"),
    ("bct", "portable"),
    ("lift", "portable"),
):
    output = Path(sys.argv[1]) / f"{preset}.{target}.onnx"
    report = rewrite(MODEL, preset, target=target, options=Options(output, verify_each=preset == "w4a8-nearest"))
    assert report.parity is not None and report.parity.sqnr_db > 15, (preset, target, report.parity)
    print(f"{preset} on {target}: {report.parity.sqnr_db:.1f} dB")

rewrite(ir.from_onnx_text(NOISE), "lift")
