import numpy as np
import pytest

from bct_onnx.errors import UsageError
from bct_onnx.runtime.inputs import cache_names
from bct_onnx.runtime.session import session
from bct_onnx.tasks.evaluate import evaluate
from bct_onnx.tasks.feeding import Cached, Feeder
from bct_onnx.tasks.perplexity import Perplexity
from bct_onnx.tasks.tokens import Tokens, batches
from tests.runtime import tiny
from tests.tasks.tiny import cumulative

SEQUENCES = tuple(np.random.default_rng(1).integers(0, 12, length) for length in (9, 4, 9, 2))


@pytest.mark.parametrize("step", [1, 2, 4, 100])
@pytest.mark.parametrize("options", [{}, {"mask": False}, {"branch": True}], ids=str)
def test_cache_gives_what_the_whole_sequence_gives(options: dict[str, bool], step: int) -> None:
    target = session(cumulative(**options).SerializeToString())
    (batch,) = batches(Tokens.plain(SEQUENCES), 4)
    whole, cached = Feeder(target, "logits", 0), Feeder(Cached(target, step), "logits", 0)
    for (piece, expected), (_, found) in zip(whole.outputs(batch), cached.outputs(batch), strict=True):
        unpadded = piece.mask.astype(bool)
        np.testing.assert_allclose(found[unpadded], expected[unpadded], rtol=1e-4, atol=1e-5)
    assert min(whole.seconds, cached.seconds) > 0


def test_past_matters_to_the_model_of_this_test() -> None:
    target = session(cumulative().SerializeToString())
    swapped = (np.array([3, 4, 5]), np.array([4, 4, 5]))
    (batch,) = batches(Tokens.plain(swapped), 2)
    ((_, logits),) = Feeder(target, "logits", 0).outputs(batch)
    assert np.abs(logits[0, 2] - logits[1, 2]).max() > 0.1


def test_perplexity_with_cache_is_that_without() -> None:
    target = session(cumulative().SerializeToString())
    scores = evaluate({"whole": target, "cache": Cached(target)}, Perplexity(Tokens.plain(SEQUENCES)), batch=3)
    assert scores["cache"].metrics["perplexity"] == pytest.approx(scores["whole"].metrics["perplexity"], rel=1e-5)
    away = scores["cache"].deviation
    assert away is not None and away.sqnr_db > 100 and away.agreement == 1.0


def test_cache_names() -> None:
    assert cache_names(session(tiny.decoder().SerializeToString())) == {"past_key_values.0.key": "present.0.key"}
    assert cache_names(session(tiny.encoder().SerializeToString())) == {}


def test_no_cache() -> None:
    with pytest.raises(UsageError, match="no key-value cache"):
        Feeder(Cached(session(tiny.encoder().SerializeToString())), "last_hidden_state", 0)
