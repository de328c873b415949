import numpy as np
import onnxruntime as ort
import pytest

from bct_onnx.errors import TargetError, UsageError
from bct_onnx.runtime import decoding
from bct_onnx.runtime.decoding import measure_decoding
from bct_onnx.runtime.session import session
from tests.runtime import tiny


@pytest.fixture(scope="module")
def decoder() -> ort.InferenceSession:
    return session(tiny.decoder().SerializeToString())


def test_each_run_gets_the_cache_of_the_one_before(
    decoder: ort.InferenceSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, list[int]]] = []

    def watched(names: list[str], inputs: dict[str, ort.OrtValue]) -> object:
        seen.append({name: list(value.numpy().shape) for name, value in inputs.items()})
        positions.append(inputs["position_ids"].numpy().ravel().tolist())
        return original(names, inputs)

    original = decoder.run_with_ort_values
    monkeypatch.setattr(decoder, "run_with_ort_values", watched)
    positions: list[list[int]] = []
    steps = decoding._steps(decoder, 2, 4, 2, {"input_ids": 12})
    decoding._generate(decoder, steps)
    assert [one["input_ids"] for one in seen] == [[2, 4], [2, 1], [2, 1]]
    assert [one["past_key_values.0.key"] for one in seen] == [[2, 2, 0, 4], [2, 2, 4, 4], [2, 2, 5, 4]]
    assert [one["attention_mask"] for one in seen] == [[2, 4], [2, 5], [2, 6]]
    assert positions == [[0, 1, 2, 3] * 2, [4, 4], [5, 5]]


def test_all_models_are_fed_the_same(decoder: ort.InferenceSession) -> None:
    again = [decoding._steps(decoder, 1, 3, 2, {"input_ids": 12}) for _ in range(2)]
    for one, other in zip(*again, strict=True):
        np.testing.assert_array_equal(one["input_ids"], other["input_ids"])


def test_times_of_every_round(decoder: ort.InferenceSession) -> None:
    found = measure_decoding({"a": decoder, "b": decoder}, prompt=4, tokens=3, rounds=2, vocab={"input_ids": 12})
    for one in found.values():
        assert len(one.first.rounds_ms) == len(one.token.rounds_ms) == 2
        assert min(*one.first.rounds_ms, *one.token.rounds_ms) > 0


def test_models_that_do_not_decode(decoder: ort.InferenceSession) -> None:
    with pytest.raises(UsageError, match="no key-value cache"):
        measure_decoding({"a": session(tiny.encoder().SerializeToString())})
    with pytest.raises(TargetError, match="decoder"):
        measure_decoding({"a": decoder}, prompt=15, tokens=4, vocab={"input_ids": 12})
