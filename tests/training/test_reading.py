"""What a student learns from: rows of the user's data, of a decoder pieces of its running text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.runtime.session import session
from bct_onnx.runtime.understanding import Sampler
from bct_onnx.tasks.calibration import CalibrationData
from bct_onnx.tasks.samples import Samples
from bct_onnx.training.reading import read, reads_on, spliced
from tests.passes import small
from tests.tasks.tiny import tokenizer

CAUSAL = "a = Attention <is_causal=1, q_num_heads=2, kv_num_heads=2> (e, e, e)"
BOTH_WAYS = "a = Attention <q_num_heads=2, kv_num_heads=2> (e, e, e)"
LINES = ["good film", "bad", "the film", "not good a film"] * 12


def model(body: str) -> ir.Model:
    """Logits for every token of a table of 12 words."""
    body = f"e = Gather (table, input_ids)  {body}  logits = MatMul (a, head)"
    text = f"g (int64[n,s] input_ids) => (float[n,s,12] logits) {{ {body} }}"
    return small.model(text, table=small.normal(12, 8, seed=1), head=small.normal(8, 12, seed=2))


@pytest.mark.parametrize(("body", "expected"), [(CAUSAL, True), (BOTH_WAYS, False)])
def test_a_decoder_is_known_by_what_it_does(body: str, expected: bool) -> None:
    subject = model(body)
    assert reads_on(subject, Sampler(subject, session(subject))) is expected


@pytest.mark.parametrize(("body", "lengths"), [(CAUSAL, {12}), (BOTH_WAYS, {1, 2, 4})])
def test_a_decoder_learns_from_a_running_text(tmp_path: Path, body: str, lengths: set[int]) -> None:
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(LINES), encoding="utf-8")
    subject = model(body)
    CalibrationData(file, tokenizer(tmp_path / "t")).leave(subject)
    data = read(subject, 64, 6, 8, 0)
    batches = [*data.samples, *data.held_back]
    assert {feeds["input_ids"].shape[1] for feeds in data.held_back} <= lengths
    assert data.rows == sum(len(feeds["input_ids"]) for feeds in data.samples)
    if body == CAUSAL:
        assert data.batch == 4
        assert "pieces of 12 tokens" in data.note
        assert np.isin([6, 4, 5], batches[0]["input_ids"]).all()
    else:
        assert data.batch == 8


def test_few_sequences_are_spliced_to_more() -> None:
    first, second = (
        {"ids": np.arange(start, start + length), "types": np.arange(length) // 3 % 2}
        for start, length in ((0, 6), (10, 4))
    )
    samples = spliced(Samples((), (first, second), ""), 50, 0)
    assert samples.rows[:2] == (first, second)
    assert len(samples.rows) == 50
    kinds = set()
    for row in samples.rows[2:]:
        ids = row["ids"]
        assert ids[0] in (0, 10) and ids[-1] in (5, 13), "special tokens stay at both ends"
        assert len(row["types"]) == len(ids) and (np.diff(row["types"]) >= 0).all()
        assert (np.diff(ids) != 1).sum() <= 1
        kinds.add(tuple(ids))
    assert len(kinds) > 6


def test_what_is_no_sequence_of_tokens_is_not_spliced() -> None:
    row = {"pixels": np.zeros((3, 4, 4)), "size": np.zeros(2)}
    samples = Samples((), (row, row), "")
    assert spliced(samples, 50, 0) is samples
