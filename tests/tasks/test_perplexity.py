from pathlib import Path

import numpy as np
import pytest

from bct_onnx.errors import UsageError
from bct_onnx.runtime.feeds import random_feeds
from bct_onnx.runtime.session import run, session
from bct_onnx.tasks.evaluate import evaluate
from bct_onnx.tasks.perplexity import Perplexity
from bct_onnx.tasks.tokens import Tokens
from tests.runtime import tiny
from tests.tasks.tiny import WORDS, tokenizer


def test_text_is_cut_into_windows_that_share_one_token(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(" ".join(WORDS[4:]) + "\ngood bad\n")
    made = Perplexity.load(tmp_path / "text.txt", tokenizer(tmp_path), max_length=3)
    assert [ids.tolist() for ids in made.tokens.ids] == [[4, 5, 6, 7], [7, 8, 9, 4], [4, 5]]
    assert len(Perplexity.load(tmp_path / "text.txt", tmp_path, max_length=3, limit=1).tokens.ids) == 1


def test_a_column_of_texts_is_one_text(tmp_path: Path) -> None:
    (tmp_path / "text.csv").write_text("id,text\n1,good bad\n2,film a the\n")
    for column in (None, "text"):
        made = Perplexity.load(tmp_path / "text.csv", tokenizer(tmp_path), text=column, max_length=3)
        assert [ids.tolist() for ids in made.tokens.ids] == [[4, 5, 6, 7], [7, 8]]


def test_stories_stay_whole_and_need_no_tokenizer(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", tokens=np.arange(10), lengths=np.array([1, 7, 2]))
    made = Perplexity.load(tmp_path / "t.npz", None, max_length=3)
    assert [len(ids) for ids in made.tokens.ids] == [7, 2], "a story of one token has nothing to predict"


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_figure_is_that_of_single_sequences(batch: int) -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 12, n) for n in (2, 9, 5, 5)]
    target = session(tiny.decoder().SerializeToString())
    losses = []
    for ids in sequences:
        feeds = random_feeds(target, batch=1, sequence=len(ids)) | {"input_ids": ids[None]}
        logits = run(target, feeds)[0][0].astype(np.float64)
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        losses += [-np.log(chances[i, token]) for i, token in enumerate(ids[1:])]
    (score,) = evaluate({"model": target}, Perplexity(Tokens.plain(sequences)), batch=batch).values()
    assert score.metrics == pytest.approx({"perplexity": float(np.exp(np.mean(losses)))})


def test_even_guesses_have_the_perplexity_of_the_vocabulary() -> None:
    model = tiny.decoder()
    for tensor in model.graph.initializer:
        tensor.raw_data = bytes(len(tensor.raw_data))
    (score,) = evaluate({"m": session(model.SerializeToString())}, Perplexity(Tokens.plain([np.arange(6)]))).values()
    assert score.metrics["perplexity"] == pytest.approx(12.0)


def test_output_is_the_logits() -> None:
    made = Perplexity(Tokens.plain([]))
    assert made.output({"present": 4, "logits": 3}) == "logits"
    assert made.output({"present": 4, "linear_3": 3}) == "linear_3"
    with pytest.raises(UsageError, match="no language model output"):
        made.output({"pooled": 2})


def test_nothing_to_predict(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("good")
    with pytest.raises(UsageError, match="no token to predict"):
        Perplexity.load(tmp_path / "text.txt", tokenizer(tmp_path))
    with pytest.raises(UsageError, match="--tokenizer"):
        Perplexity.load(tmp_path / "text.txt", None)


@pytest.mark.real
def test_real_text(real_dir: Path) -> None:
    made = Perplexity.load(real_dir / "data" / "ptb" / "test.txt", real_dir / "models" / "gpt2-ptb")
    assert len(made.tokens.ids) == 819 and sum(len(ids) - 1 for ids in made.tokens.ids) == 104795
