"""Rows are built, measured, kept and gone; a failure is a row."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from bct_onnx import registry
from bct_onnx.errors import BctError, UsageError
from bct_onnx.study.candidates import Study, open_study
from bct_onnx.study.comparison import Measuring
from bct_onnx.study.peers import Built
from bct_onnx.study.tradeoff import Frontier, Job, Row, Selection, collect, jobs, running, setting_of
from bct_onnx.study.tradeoff.building import Place, build, peak_memory
from bct_onnx.study.tradeoff.running import run
from tests.runtime import tiny

PIPELINE = registry.parse("normalize,quantize-embeddings,quantize-weights{minimum=1}")
FP32, EIGHT, TWO = Job("fp32", "fp32"), Job("8", "nearest", "quantize-embeddings{bits=8}"), Job("2", "nearest", "bad")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def study(tmp_path: Path, temporary: Path) -> Iterator[Study]:
    """A model of a table of 1600 values and a matrix of 64, measured on random tokens."""
    onnx.save(tiny.encoder(vocabulary=200), tmp_path / "m.onnx")
    with open_study(tmp_path / "m.onnx", "ort-cpu", Measuring(rounds=0), lambda label, done, total: None) as opened:
        yield opened


class Builder:
    """Builds in this process, notes what it was asked for, and turns errors into results as a process would."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, job: Job, place: Place) -> Built:
        self.asked.append(job.name)
        try:
            return build(job, place)
        except BctError as error:
            return Built(error=error.what)


def test_rows_tell_size_distance_and_cost(study: Study) -> None:
    fp32, eight = run(study, PIPELINE, [FP32, EIGHT], {}, Builder())
    assert fp32.ratio == pytest.approx(1.0) and fp32.bits == pytest.approx(32.0) and fp32.seconds is None
    assert fp32.figures["exact"] and fp32.peak is None and fp32.slowest == ""
    assert eight.ratio is not None and 2.8 < eight.ratio < 4.0
    assert eight.ratio * (eight.bits or 0) == pytest.approx(32.0)
    assert eight.seconds is not None and eight.slowest and (eight.slowest_seconds or 0) <= eight.seconds
    assert 30 < eight.figures["sqnr_db"] < 80 and eight.text == EIGHT.passes
    assert eight.peak is not None and eight.peak > 1 << 24


def test_a_failure_is_a_row_and_the_next_ones_go_on(study: Study) -> None:
    bad, good = run(study, PIPELINE, [TWO, EIGHT], {}, Builder())
    assert "unknown preset" in bad.error or "unknown pass" in bad.error
    assert bad.ratio is None and not good.error and good.ratio


def test_a_result_that_does_not_load_is_a_failure(study: Study, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    (row,) = run(study, PIPELINE, [EIGHT], {}, lambda job, place: Built(tmp_path / "bad.onnx"))
    assert row.error and "\n" not in row.error and row.ratio is None


def test_nothing_is_left_behind(study: Study, temporary: Path) -> None:
    before = sorted(temporary.rglob("*"))

    def interrupt(job: Job, place: Place) -> Built:
        (place.folder / "big.onnx").write_bytes(b"x")
        (place.cache / "entry.json").write_text("{}", encoding="utf-8")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run(study, PIPELINE, [EIGHT], {}, interrupt))
    assert sorted(temporary.rglob("*")) == before
    list(run(study, PIPELINE, [FP32, EIGHT], {}, Builder()))
    assert sorted(temporary.rglob("*")) == before


def test_another_ratio_costs_what_it_would_alone(study: Study) -> None:
    first = Built(None, "", 10.0, 8.0, ("save", 1.0), 100, "no")
    second = dataclasses.replace(first, seconds=3.0, planning=1.0, slowest=("quantize-weights", 1.5), peak=50)
    kept = {8.0: first, 10.0: second}
    results = {ratio: dataclasses.replace(one, file=study.source, error="") for ratio, one in kept.items()}
    made = [Job(f"ours {ratio:g}x", "ours", str(PIPELINE), ratio) for ratio in results]
    one, other = run(study, PIPELINE, made, {}, lambda job, place: results[job.ratio or 0])
    assert (one.seconds, one.peak, one.slowest) == (10.0, 100, "planning")
    assert (other.seconds, other.peak) == (10.0, 100)
    assert (other.slowest, other.slowest_seconds) == ("planning", 8.0)


def kept(study: Study, file: Path, made: list[Job]) -> tuple[list[str], Frontier]:
    """What was built anew, and all rows of this run."""
    builder = Builder()
    shown: list[Row] = []
    found = collect(study, PIPELINE, made, setting_of(study.source), file, shown.append, builder)
    assert list(found.rows) == shown
    return builder.asked, found


def test_another_state_of_the_program_makes_its_own_rows(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.json"
    assert kept(study, file, [FP32])[0] == ["fp32"] and kept(study, file, [FP32])[0] == []
    monkeypatch.setattr(running, "of_code", lambda: "another")
    assert kept(study, file, [FP32])[0] == ["fp32"]


def test_a_later_run_goes_on(study: Study, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    assert kept(study, file, [FP32, TWO])[0] == ["fp32", "2"]
    asked, found = kept(study, file, [FP32, EIGHT, TWO])
    assert asked == ["8", "2"], "a row that failed is tried again"
    assert [row.name for row in found.rows] == ["fp32", "8", "2"]
    changed = dataclasses.replace(EIGHT, passes="quantize-embeddings{bits=4}")
    assert kept(study, file, [changed])[0] == ["8"], "another pipeline is another row"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert {row["name"]: row["passes"] for row in rows} == {"fp32": "", "2": "bad", "8": changed.passes}
    assert [one.name for one in tmp_path.iterdir() if ".part" in one.name] == []


def test_results_of_another_run_are_refused(study: Study, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    kept(study, file, [FP32])
    before = file.read_bytes()
    with pytest.raises(UsageError, match="another run") as caught:
        collect(study, PIPELINE, [], setting_of(study.source, data="other"), file, print, Builder())
    assert "data was None" in str(caught.value) and file.read_bytes() == before
    for content in ("[]", "{", '{"rows": [{}]}'):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(UsageError, match="cannot be read"):
            kept(study, file, [])


def test_jobs_of_a_preset_run(study: Study) -> None:
    made = jobs(PIPELINE, Selection(ratios=(8.0,), only=("fp32", "nearest", "shift", "ort-dynamic")))
    rows = {row.name: row for row in run(study, PIPELINE, made, {}, Builder())}
    assert [row.error for row in rows.values() if row.error] == []
    assert rows["nearest 4 bit"].figures["sqnr_db"] > rows["shift 4 bit, max"].figures["sqnr_db"]
    ratios = [rows[f"shift {bits} bit, mse"].ratio or 0 for bits in (4, 3, 2)]
    assert ratios == sorted(ratios) and 1 < ratios[0] < ratios[-1]


def test_bits_are_allotted_for_each_ratio_from_one_measurement(study: Study) -> None:
    made = jobs(PIPELINE, Selection(ratios=(3.0, 5.0), only=("ours",), without=("rows",)))
    rows = {row.name: row for row in run(study, PIPELINE, made, {}, Builder())}
    assert [row.error for row in rows.values() if row.error] == []
    smaller, larger = rows["ours 5x"], rows["ours 3x"]
    assert smaller.ratio is not None and smaller.ratio >= 4.9 and "allocate{ratio=5.0}" in smaller.text
    assert larger.ratio is not None and 2.9 <= larger.ratio < smaller.ratio
    assert larger.figures["sqnr_db"] > smaller.figures["sqnr_db"]
    assert smaller.slowest and smaller.wanted == 5.0


def test_a_ratio_out_of_reach_is_a_failure(study: Study) -> None:
    (row,) = run(study, PIPELINE, jobs(PIPELINE, Selection(ratios=(31.0,), only=("ours",))), {}, Builder())
    assert row.error and row.ratio is None


def test_peak_memory_only_grows() -> None:
    first = peak_memory()
    assert first is not None and first > 1 << 24
    block = bytearray(1 << 25)
    block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
    second = peak_memory()
    assert second is not None and second >= first
