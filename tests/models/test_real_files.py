"""The table of real files: what turned and how narrowly, refusals once, and commands in processes of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.real_files.decisions import Reading, Turned, best_of, characters, turned
from models.real_files.running import Limits, Runner
from models.real_files.table import Cells, markdown, refused

ENTRY = {"what": "reads lines", "path": "m.onnx", "registry": "pypi", "package": "p", "version": "1", "licence": "MIT"}


def cell(**given: Any) -> dict[str, Any]:
    usual = {"exit": 0, "error": "", "seconds": 2.0, "memory": 100.0, "ratio": 4.0, "sqnr_db": 21.5, "answers": [3, 5]}
    return {**usual, "turned": None, "fault": "", "commit": "abc", **given}


def test_choices_that_turned_and_by_how_much() -> None:
    before = [np.array([[[0.0, 3.0, 2.9], [5.0, 0.0, 1.0]]])]
    after = [np.array([[[0.0, 2.8, 3.0], [4.0, 0.0, 1.0]]])]
    reading = Reading(best_of, characters)
    found = turned(reading, [before], [after])
    assert isinstance(found, Turned)
    assert found.count == (1, 2)
    np.testing.assert_allclose((found.gap, found.usual), (0.1, (0.1 + 4.0) / 2))
    assert reading.read(before) == (1,) and reading.read(after) == (2,)


def test_the_table_has_presets_down_and_targets_across() -> None:
    choices = {"count": [2, 90], "gap": 0.25, "usual": 7.0}
    cells: Cells = {
        ("m", "bct-plus", "ort-cpu"): cell(turned=choices),
        ("m", "bct-plus", "portable"): cell(exit=1, error="error: nothing was compressed"),
        ("m", "npu", "qnn"): cell(fault="no kernel"),
    }
    text = markdown(cells, {"m": {**ENTRY, "note": "Lines are short."}})
    assert "| | ort-cpu | portable | qnn |" in text
    assert "| bct-plus | 21.5 dB, 3/5, 4.00x | A | no |" in text
    assert "| npu |  |  | does not run: no kernel |" in text
    assert "- A: exit 1: error: nothing was compressed" in text and "Lines are short." in text
    assert "- bct-plus for ort-cpu: 2 of 90 choices turned, preferred by 0.25 at most, usual 7" in text
    assert text.count(refused("bct-plus", "qnn")) == 1


@pytest.mark.whole
def test_commands_run_in_processes_of_their_own(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.onnx")
    with Runner() as runner:
        ended = runner.run(["rewrite", missing, "-o", str(tmp_path / "out.onnx")], Limits())
        killed = runner.run(["rewrite", missing, "--dry-run"], Limits(memory=1 << 20))
        told = runner.run(["--version"], Limits())
    assert ended.exit == 3 and missing in ended.errors and ended.seconds > 0
    assert killed.exit not in (0, 3) and not told.exit and not told.errors
