"""``bct-onnx rewrite --calibrate``: the user's data reaches the passes, and its folder does not reach the model."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from bct_onnx import registry
from bct_onnx.cli.calibrating import CalibrationData
from bct_onnx.tasks import own_text
from tests.cli.conftest import Invoke
from tests.whole_models import Compressed

QUICK = ("--passes", "normalize,fold-constants,calibrate{samples=8},quantize-weights{importance=input}")
"""What is measured decides on the weights, without solving for them."""
TABLE = "label\tsentence\n1\ta gripping and tender film\n0\tdull , flat and far too long\n1\tgood fun\n"


@pytest.fixture
def invoke(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """``invoke(*arguments, code=0)``: ``rewrite`` in a folder that holds data."""
    folder = tmp_path / "secret-folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "d.tsv").write_text(TABLE, encoding="utf-8")
    return lambda *arguments, code=0: invoke("rewrite", *arguments, "--no-check", code=code)


def test_the_report_says_where_the_statistics_came_from(invoke: Invoke, bundled_model: Path) -> None:
    random, text = (
        invoke(bundled_model, "--dry-run", *QUICK, *more)
        for more in ([], ["--calibrate", "d.tsv", "--tokenizer", bundled_model.parent])
    )
    assert "  calibrate  random tokens (no data given)\n" in random
    assert "  calibrate  3 rows of d.tsv (" in text
    steps = json.loads(invoke(bundled_model, "--dry-run", "--calibrate", "d.tsv", "--json", *QUICK))["steps"]
    (note,) = (step["note"] for step in steps if step["pass"].startswith("calibrate"))
    assert note.startswith("3 rows of d.tsv (") and all("note" in step for step in steps)


def test_data_decides_and_its_folder_is_not_told(invoke: Invoke, bundled_model: Path) -> None:
    data = Path("d.tsv").absolute()
    options = ["-q", "--calibrate", data, "--tokenizer", bundled_model.parent, *QUICK]
    invoke(bundled_model, "-o", "text.onnx", *options)
    invoke(bundled_model, "-o", "again.onnx", *options)
    invoke(bundled_model, "-o", "random.onnx", "-q", *QUICK)
    written = Path("text.onnx").read_bytes()
    assert written == Path("again.onnx").read_bytes()
    for secret in (b"secret-folder", str(bundled_model.parent).encode()):
        assert secret not in written
    text, random = (
        {prop.key: prop.value for prop in onnx.load(name).metadata_props} for name in ("text.onnx", "random.onnx")
    )
    assert "data=d.tsv tokenizer=tokenizer.json" in text["bct_onnx.pipeline"]
    digests = [
        hashlib.sha256(file.read_bytes()).hexdigest() for file in (data, bundled_model.parent / "tokenizer.json")
    ]
    assert text["bct_onnx.data"] == f"d.tsv sha256:{digests[0]}, tokenizer.json sha256:{digests[1]}"
    assert "bct_onnx.data" not in random
    weights = [
        {one.name: one.raw_data for one in onnx.load(name).graph.initializer} for name in ("text.onnx", "random.onnx")
    ]
    assert weights[0].keys() == weights[1].keys() and weights[0] != weights[1]


def test_the_line_that_repeats_the_run_does(invoke: Invoke, bundled_model: Path) -> None:
    Path("my data.tsv").write_text(TABLE, encoding="utf-8")
    options = ["--calibrate", "my data.tsv", "--column", "1", *QUICK]
    printed = invoke(bundled_model, "-o", "a.onnx", *options)
    (line,) = (line for line in printed.splitlines() if line.strip().startswith("repeat"))
    assert 'data="my data.tsv"' in line and "column=1" in line
    invoke(bundled_model, "-o", "b.onnx", "-q", "--passes", line.split("'")[1])
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


def test_token_ids_need_no_tokenizer(invoke: Invoke, bundled_model: Path) -> None:
    np.savez("d.npz", tokens=np.arange(12), lengths=np.array([5, 7]))
    assert "2 rows of d.npz (12 tokens)" in invoke(bundled_model, "--dry-run", "--calibrate", "d.npz", *QUICK)


def given(model: Path, *, calibrate: str | None = None, tokenizer: Path | None = None, is_own: bool = False) -> str:
    """The calibrate pass of a preset with what a command line gives it."""
    data = CalibrationData(calibrate, None, tokenizer)
    pipeline = data.given_to(registry.preset("fast"), model, is_own=is_own)
    return next(str(each) for each in pipeline if each.name == "calibrate")


def test_presets_calibrate_on_our_text_where_a_tokenizer_is_at_hand(bundled_model: Path, tmp_path: Path) -> None:
    alone, folder = tmp_path / "model.onnx", bundled_model.parent
    assert "data=builtin:english" in given(bundled_model) and f"tokenizer={folder}" in given(bundled_model)
    assert "data=builtin:english" in given(alone, tokenizer=folder)
    for printed in (given(alone), given(bundled_model, calibrate="random"), given(bundled_model, is_own=True)):
        assert "data=" not in printed


def test_our_text_needs_the_package(invoke: Invoke, bundled_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_text, "find_spec", lambda name: None)
    passes = QUICK[1].replace("samples=8", f"data=builtin:english tokenizer={bundled_model.parent} samples=8")
    printed = invoke(bundled_model, "--dry-run", "--passes", passes)
    assert "random tokens (no data given); no English text of ours: " in printed and "bct-onnx[text]" in printed


def test_the_report_says_that_it_is_our_text(invoke: Invoke, bundled_model: Path) -> None:
    passes = QUICK[1].replace("samples=8", f"data=builtin:english tokenizer={bundled_model.parent} samples=8")
    printed = invoke(bundled_model, "--dry-run", "--passes", passes)
    assert "  calibrate  English text of ours, no data given (8 texts, " in printed


def test_a_recipe_holds_the_data_and_the_command_line_wins(invoke: Invoke, bundled_model: Path) -> None:
    Path("e.txt").write_text("good\nbad\n", encoding="utf-8")
    options = f'data = "e.txt"\ntokenizer = "{bundled_model.parent.as_posix()}"\n'
    Path("r.toml").write_text(f'passes = "{QUICK[1]}"\n[options.calibrate]\n{options}', encoding="utf-8")
    run = [bundled_model, "--recipe", "r.toml", "--dry-run"]
    assert "2 rows of e.txt" in invoke(*run)
    assert "3 rows of d.tsv" in invoke(*run, "--calibrate", "d.tsv")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--calibrate", "none.tsv"], "cannot read the data"),
        (["--calibrate", "d.tsv", "--column", "sentense"], "did you mean 'sentence'"),
        (["--calibrate", "d.tsv", "--column", "label,x"], "there is no column 'x'"),
        (["--calibrate", "d.tsv", "--tokenizer", "."], "no tokenizer"),
        (["--calibrate", "d.tsv", "--preset", "w4"], "no pass of this pipeline takes calibration data"),
        (["--column", "sentence"], "--column needs --calibrate"),
        (["--tokenizer", "."], "without data"),
        (["--calibrate", "empty.txt"], "there is no text"),
        (["--calibrate", "empty.npz"], "nothing to calibrate on"),
        (["--calibrate", "names.npz"], "did you mean 'input_ids'"),
        (["--calibrate", "floats.npz"], "dtype float32 does not fit"),
        (["--calibrate", "beyond.npz"], "does not run on the data"),
    ],
    ids=str,
)
def test_what_cannot_be_used_ends_with_2(arguments: list[str], said: str, invoke: Invoke, bundled_model: Path) -> None:
    Path("empty.txt").write_text("\n", encoding="utf-8")
    np.savez("empty.npz", input_ids=np.zeros((0, 4), np.int64))
    np.savez("names.npz", input_idz=np.zeros((2, 4), np.int64))
    np.savez("floats.npz", input_ids=np.zeros((2, 4), np.float32))
    np.savez("beyond.npz", input_ids=np.full((2, 4), 10**6))
    assert said in invoke(bundled_model, "-o", "out.onnx", *arguments, code=2)
    assert not Path("out.onnx").exists()


def test_a_model_without_a_tokenizer_beside_it(invoke: Invoke, bundled_model: Path) -> None:
    Path("model.onnx").write_bytes(bundled_model.read_bytes())
    said = invoke("model.onnx", "-o", "out.onnx", "--calibrate", "d.tsv", code=2)
    assert "texts need a tokenizer" in said and "--tokenizer" in said


def test_without_the_package(invoke: Invoke, bundled_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # makes the import fail as if it were not installed
    said = invoke(bundled_model, "-o", "out.onnx", "--calibrate", "d.tsv", code=2)
    assert "'tokenizers' is not installed" in said and "pip install 'bct-onnx[text]'" in said


@pytest.mark.parametrize("preset", ["bct-plus", "w4a8"])
def test_a_preset_from_python_calibrates_as_the_command_does(
    invoke: Invoke, bundled_model: Path, compressed: Callable[..., Compressed], preset: str
) -> None:
    printed = invoke(bundled_model, "--dry-run", "--json", "--preset", preset)
    report = compressed(preset).report
    assert "data=builtin:english" in report.pipeline
    assert json.loads(printed)["pipeline"] == report.pipeline
