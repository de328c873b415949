"""Figures of presets are replaced, and nothing else of their file is."""

from __future__ import annotations

from pathlib import Path

from bct_onnx import presets
from bct_onnx.presets import Measured
from bct_onnx.registry import MEASUREMENT
from models.presets import FIGURES, rewritten


def test_other_figures_and_nothing_else(tmp_path: Path) -> None:
    text = FIGURES.read_text(encoding="utf-8")
    facts = {key: getattr(MEASUREMENT, key) for key in ("model", "score", "speed", "machine", "commit")}
    assert rewritten(text, {}, facts) == text
    changed = {"fast": Measured(1.5, 0.25, 2.0), "w4a8-nearest": Measured(1.0, -0.1, 3.0)}
    file = tmp_path / "presets.toml"
    file.write_text(rewritten(text, changed, facts | {"commit": "abcdef0"}), encoding="utf-8")
    before, after = presets.read(FIGURES), presets.read(file)
    assert after.measurement.commit == "abcdef0"
    for name, preset in after.presets.items():
        assert preset.measured == changed.get(name, before.presets[name].measured)
        assert preset.passes == before.presets[name].passes
