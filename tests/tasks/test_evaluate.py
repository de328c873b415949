from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from bct_onnx.errors import UsageError
from bct_onnx.runtime.session import session
from bct_onnx.tasks.evaluate import evaluate
from bct_onnx.tasks.tokens import Array, Batch, Tokens
from tests.runtime import tiny

LENGTHS = (3, 1, 4, 2, 4, 1, 2)
SEQUENCES = tuple(np.arange(1, n + 1) for n in LENGTHS)


@dataclass(frozen=True)
class Sums:
    """Hands the logits of each sequence back as they are."""

    tokens: Tokens
    logits = True

    def output(self, outputs: Mapping[str, int]) -> str:
        assert outputs == {"logits": 2}
        return "logits"

    def rows(self, output: Array, batch: Batch) -> Iterable[Array]:
        return output

    def result(self, row: Array, index: int) -> Any:
        return row

    def metrics(self, results: Sequence[Any]) -> dict[str, float]:
        return {str(position): float(result[0]) for position, result in enumerate(results)}


def adder(*, masked: bool = True, **fixed: int) -> ort.InferenceSession:
    """Sums the token ids; its padding token counts 1000, so a padding that is not masked shows."""
    table = np.arange(10.0)[:, None]
    table[9] = 1000.0
    model = tiny.classifier(np.ones((1, 1)), table, masked=masked)
    return session(tiny.with_fixed(model, **fixed).SerializeToString())


TASK = Sums(Tokens.plain(SEQUENCES, pad=9))
EXPECTED = {str(position): float(ids.sum()) for position, ids in enumerate(SEQUENCES)}


@pytest.mark.parametrize("size", [1, 2, 3, 32])
@pytest.mark.parametrize(
    "options", [{}, {"masked": False}, {"batch": 2}, {"sequence": 6}, {"batch": 4, "sequence": 4}], ids=str
)
def test_every_sequence_has_its_own_result(options: Any, size: int) -> None:
    (score,) = evaluate({"model": adder(**options)}, TASK, batch=size).values()
    assert score.metrics == EXPECTED
    assert (score.sequences, score.batches) == (7, -(-7 // size))
    assert score.batch_ms == pytest.approx(score.seconds / score.batches * 1e3)


def test_models_are_interleaved_and_progress_is_told() -> None:
    seen: list[int] = []

    def track(prepared: Sequence[Batch]) -> Iterable[Batch]:
        for batch in prepared:
            seen.append(len(batch.index))
            yield batch

    scores = evaluate({"a": adder(), "b": adder(masked=False)}, TASK, batch=3, track=track)
    assert list(scores) == ["a", "b"] and scores["a"].metrics == scores["b"].metrics == EXPECTED
    assert seen == [3, 3, 1]


def test_deviation_is_from_the_first_model_sequence_by_sequence() -> None:
    scores = evaluate({"a": adder(), "pieces": adder(masked=False), "fixed": adder(batch=2, sequence=6)}, TASK, batch=4)
    assert scores["a"].deviation is None
    for name in ("pieces", "fixed"):
        deviation = scores[name].deviation
        assert deviation is not None and deviation.sqnr_db == float("inf") and deviation.kl is None


def test_models_of_other_shapes_are_scored_without_deviation() -> None:
    wide = session(tiny.classifier(np.ones((1, 3)), np.arange(10.0)[:, None]).SerializeToString())
    scores = evaluate({"a": adder(), "wide": wide}, TASK)
    assert scores["wide"].deviation is None and scores["wide"].metrics == EXPECTED


def test_sequence_longer_than_a_fixed_length() -> None:
    with pytest.raises(UsageError, match="4 tokens does not fit a model with a fixed length of 3"):
        evaluate({"model": adder(sequence=3)}, TASK)


def test_model_without_token_ids() -> None:
    model = tiny.classifier(np.ones((1, 1)), np.ones((10, 1)), masked=False)
    model.graph.input[0].name = model.graph.node[0].input[1] = "codes"
    with pytest.raises(UsageError, match="no input of token ids"):
        evaluate({"model": session(model.SerializeToString())}, TASK)
