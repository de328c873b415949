"""The text that comes with the package is used for models of English text, and for no others."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from bct_onnx.tasks import own_text
from passes.calibrate import Calibrate
from tests.passes.calibrated import ARRAYS, TEXT
from tests.passes.small import apply, model
from tests.runtime import tiny
from tests.tasks.tiny import tokenizer


def test_every_line_is_a_text_of_its_own() -> None:
    lines = own_text.FILE.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(set(lines)) == 314
    assert min(map(len, lines)) > 5 and all(line == line.strip() for line in lines)


def test_a_tokenizer_without_english(tmp_path: Path) -> None:
    folder = tokenizer(tmp_path / "t", special=True)
    assert own_text.is_usable(folder) and not own_text.is_usable(tmp_path)
    assert "few English words" in own_text.refusal(ir.from_proto(tiny.encoder()), folder)


def test_what_it_does_not_suit_gets_random_tokens(tmp_path: Path) -> None:
    folder, target = tokenizer(tmp_path / "t", special=True), model(TEXT, **ARRAYS)
    applied = apply(Calibrate(data=own_text.NAME, tokenizer=str(folder), samples=3, sequence=5), target)
    random = apply(Calibrate(samples=3, sequence=5), model(TEXT, **ARRAYS))
    assert [site.note for site in applied.sites] == [site.note for site in random.sites]
    assert applied.note.startswith("random tokens (no data given); no English text of ours: the tokenizer ")


@pytest.mark.real
def test_a_real_tokenizer_takes_it(real_dir: Path) -> None:
    assert own_text.is_usable(real_dir / "models" / "minilm-sst2")
