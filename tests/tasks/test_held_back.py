"""What is calibrated on text is checked on text, on none of the texts that calibrated it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bct_onnx.graph.load import load
from bct_onnx.reference import Reference
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.inputs import inputs_of
from bct_onnx.runtime.latency import Latency, measure
from bct_onnx.tasks import own_text
from bct_onnx.tasks.calibration import CalibrationData
from bct_onnx.tasks.held_back import held_back
from tests.passes.small import model

WORDS = ["good", "bad", "film", "story", "music", "the", "a", "of", "and", "slow", "fast", "dull", "bright"]


def data(folder: Path, tokenizer: Path, rows: int) -> CalibrationData:
    random = np.random.default_rng(0)
    lines = [" ".join([f"{row}", *random.choice(WORDS, random.integers(3, 12))]) for row in range(rows)]
    (folder / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    return CalibrationData(folder / "texts.txt", tokenizer)


def test_our_texts_to_check_with_are_others() -> None:
    ours, held = (file.read_text(encoding="utf-8").splitlines() for file in (own_text.FILE, own_text.HELD_BACK))
    assert len(held) == len(set(held)) == 24 and not set(ours) & set(held)


def test_no_text_that_calibrates_is_held_back(bundled_model: Path, tmp_path: Path) -> None:
    given, inputs = data(tmp_path, bundled_model.parent, 64), inputs_of(load(bundled_model))
    used, held = given.read(inputs, 1000, 64), given.held_back(inputs, 64)
    seen = {tuple(row["input_ids"]) for row in used.rows}
    assert (len(used.rows), len(held.rows)) == (60, 4)
    assert not seen & {tuple(row["input_ids"]) for row in held.rows}


def test_few_texts_all_calibrate(bundled_model: Path, tmp_path: Path) -> None:
    given, source = data(tmp_path, bundled_model.parent, 20), load(bundled_model)
    assert len(given.read(inputs_of(source), 1000, 64).rows) == 20
    assert held_back(given, source) is None


def test_models_without_a_mask_or_of_fixed_sizes_have_none(bundled_model: Path, tmp_path: Path) -> None:
    given = data(tmp_path, bundled_model.parent, 64)
    assert held_back(given, model("g (int64[n,s] input_ids) => (int64[n,s] y) { y = Neg (input_ids) }")) is None
    fixed = (
        "g (int64[1,8] input_ids, int64[1,8] attention_mask) => (int64[1,8] y) { y = Add (input_ids, attention_mask) }"
    )
    assert held_back(given, model(fixed)) is None


def test_batches_are_padded_and_what_padding_gives_is_not_compared(bundled_model: Path, tmp_path: Path) -> None:
    given = data(tmp_path, bundled_model.parent, 64)
    reference = Reference(bundled_model, load(bundled_model), True, None, given)
    several, single, _ = reference.feeds
    assert several["attention_mask"].shape == (2, 24) and not several["attention_mask"].all()
    assert not several["input_ids"][several["attention_mask"] == 0].any() and single["attention_mask"].all()
    assert reference.parity(reference.opened(bundled_model)).source == "4 texts of texts.txt held back from calibration"


def test_what_is_timed_has_no_padding(bundled_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Reference(bundled_model, load(bundled_model), True, None, data(tmp_path, bundled_model.parent, 64))
    seen: list[Feeds] = []

    def watched(models: Mapping[str, Any], feeds: Feeds, **how: Any) -> Mapping[str, Latency]:
        seen.append(feeds)
        return measure(models, feeds, **how)

    monkeypatch.setattr("bct_onnx.reference.measure", watched)
    timing = reference.timings(reference.opened(bundled_model))[0]
    assert (timing.batch, timing.sequence) == (1, 128)
    assert seen[0]["attention_mask"].shape == (1, 128) and seen[0]["attention_mask"].all()


@pytest.mark.whole
def test_the_report_says_what_it_was_checked_on(bundled_model: Path, tmp_path: Path) -> None:
    given = data(tmp_path, bundled_model.parent, 64)
    passes = f"normalize,calibrate{{data={given.file} tokenizer={bundled_model.parent}}},quantize-weights"
    report = rewrite(bundled_model, passes, options=Options(dry_run=True))
    assert report.parity is not None and "texts.txt held back" in report.parity.source
