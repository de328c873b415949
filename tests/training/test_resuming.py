"""A run that was interrupted goes on where it was, and ends with the bytes of one that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bct_onnx.cli.options import TaskData
from bct_onnx.cli.sizing import SizeGoal
from bct_onnx.errors import UsageError
from bct_onnx.graph.inventory import TRAINED
from bct_onnx.graph.load import load
from bct_onnx.graph.save import save
from bct_onnx.recipe import with_distilling
from bct_onnx.registry import PASSES, parse
from bct_onnx.rewriting import Options, rewrite
from tests.training.test_distilling import STORED, classifier
from tests.training.test_student import constants

PIPELINE = f"{STORED},distill{{samples=64 batch=16 sequence=16 steps=16 rate=0.02}}"


def trained(output: Path, *, interrupt: str = "", resume: bool = False, pipeline: str = PIPELINE) -> str:
    """Train to a file, and interrupt where progress tells of a step; the note of the pass."""

    def progress(label: str, done: int, total: int) -> None:
        if interrupt and interrupt in label:
            raise KeyboardInterrupt

    options = Options(output=output, progress=progress, resume=resume, accept=True, check=False, force=True)
    report = rewrite(classifier(), pipeline, options=options)
    return next(step.note for step in report.steps if step.text.startswith("distill"))


@pytest.mark.train
def test_a_resumed_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole, parted = tmp_path / "whole.onnx", tmp_path / "parted.onnx"
    trained(whole)
    assert [file.name for file in tmp_path.iterdir()] == ["whole.onnx"], "what was kept is gone when it is over"
    with pytest.raises(KeyboardInterrupt):
        trained(parted, interrupt="step 11 ")
    assert {file.name for file in tmp_path.iterdir()} == {"whole.onnx", "parted.onnx.unfinished"}
    note = trained(parted, resume=True)
    assert "the first 10 of them by an earlier run" in note
    assert constants(load(parted)) == constants(load(whole))
    assert not (tmp_path / "parted.onnx.unfinished").exists()


@pytest.mark.train
@pytest.mark.parametrize("reason", ["not asked for", "another run", "damaged"])
def test_what_was_left_is_only_used_where_it_fits(tmp_path: Path, reason: str) -> None:
    output = tmp_path / "out.onnx"
    with pytest.raises(KeyboardInterrupt):
        trained(output, interrupt="step 11 ")
    left = tmp_path / "out.onnx.unfinished"
    if reason == "damaged":
        left.write_bytes(left.read_bytes()[:1000])
    pipeline = PIPELINE.replace("rate=0.02", "rate=0.01") if reason == "another run" else PIPELINE
    assert "earlier run" not in trained(output, resume=reason != "not asked for", pipeline=pipeline)


@pytest.mark.train
def test_a_result_says_what_it_was_trained_on(tmp_path: Path) -> None:
    trained(tmp_path / "out.onnx")
    said = load(tmp_path / "out.onnx").metadata_props[TRAINED]
    assert "of 16 steps; seed 0, texts blake2b:" in said
    trained(tmp_path / "other.onnx", pipeline=PIPELINE.replace("distill{", "distill{seed=1 "))
    assert load(tmp_path / "other.onnx").metadata_props[TRAINED].partition("seed")[2] != said.partition("seed")[2]


@pytest.mark.train
@pytest.mark.whole
@pytest.mark.parametrize("interrupted", ["keep", "stop"])
def test_control_c_in_a_terminal_does_what_the_user_says(tmp_path: Path, interrupted: str) -> None:
    save(classifier(), tmp_path / "model.onnx")
    passes = PIPELINE.replace("steps=16 rate=0.02", f"steps=6000 interrupted={interrupted}")
    command = [
        sys.executable,
        "-m",
        "bct_onnx",
        "rewrite",
        "model.onnx",
        "-o",
        "out.onnx",
        "--passes",
        passes,
        "--accept",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    left, output = tmp_path / "out.onnx.unfinished", tmp_path / "out.onnx"
    while not left.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    if interrupted == "stop":
        assert (process.returncode, err) == (130, "interrupted; nothing was written\n")
        assert left.exists() and not output.exists()
        return
    assert process.returncode == 0, (out, err)
    assert output.exists() and not left.exists()


def test_the_best_so_far_is_kept_where_that_is_asked_for() -> None:
    goal = SizeGoal(target_ratio=16, distill=True, keep_best=True)
    assert "distill{interrupted=keep}" in str(goal.given_to(parse("w4")))
    for goal in (SizeGoal(target_ratio=16, resume=True), SizeGoal(target_ratio=16, keep_best=True)):
        with pytest.raises(UsageError, match="is of no use without --distill"):
            goal.check(TaskData(), force=False)


@pytest.mark.whole
def test_torch_is_imported_by_nothing_else() -> None:
    """All commands, passes and what they are made of; of the training only what computes needs torch."""
    modules = "bct_onnx.cli.rewrite, bct_onnx.rewriting, bct_onnx.registry, bct_onnx.training.reading, bct_onnx.study"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert "distill" in PASSES
    assert str(with_distilling(parse("w4"))).count("distill") == 1
