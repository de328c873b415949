"""Presets and targets on the oldest versions: each result loads and runs there. Names a folder to write to."""

import itertools
import sys
from pathlib import Path

from bct_onnx import rewrite
from bct_onnx.rewriting import Options

MODEL = Path(__file__).resolve().parents[1] / "models/tiny-bert-sst2/model.onnx"

for preset, target in itertools.product(("w4a8-nearest", "fast", "bct", "lift"), ("ort-cpu", "ort-cpu-integer")):
    output = Path(sys.argv[1]) / f"{preset}.{target}.onnx"
    report = rewrite(MODEL, preset, target=target, options=Options(output, verify_each=preset == "w4a8-nearest"))
    assert report.parity is not None and report.parity.sqnr_db > 15, (preset, target, report.parity)
    print(f"{preset} on {target}: {report.parity.sqnr_db:.1f} dB")
