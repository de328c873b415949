"""The search for sizes that a model runs on ends, and looks first where constants of the graph tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.errors import TargetError
from bct_onnx.reference import Reference
from bct_onnx.runtime.session import session
from bct_onnx.runtime.understanding import RunsOnNothingError, Sampler, start
from bct_onnx.runtime.understanding.counting import lengths
from bct_onnx.runtime.understanding.start import Hints
from bct_onnx.runtime.understanding.trial import Trial
from tests.passes.small import model, normal
from tests.runtime.understood import PLACES, sampler

WAVE = "u = Unsqueeze (x, ax1)  c = Conv <strides = [16]> (u, wave)  e = Transpose <perm = [0, 2, 1]> (c)"
KERNEL = normal(8, 1, 16, scale=0.2)


@pytest.mark.parametrize(
    ("scores", "constant"),
    [
        ("d = Unsqueeze (upto, ax1)  f = Cast <to = 1> (d)  s = Add (s0, f)", np.arange(21)),
        ("s = Add (s0, upto)", normal(1, 21, 21)),
    ],
)
def test_constants_tell_how_long_a_sequence_is(scores: str, constant: Any) -> None:
    heard = sampler("float[b,samples] x", WAVE, scores, wave=KERNEL, upto=constant)
    assert heard.sample(2, 40)["x"].shape == (2, 21 * 16) and heard.longest(64) == 21


def test_lengths_are_those_of_positions_and_tables() -> None:
    text = "g (float[n,t,4] x) => (float[n,t,4] y) { a = Add (x, table)  b = Mul (a, gain)  y = Reshape (b, dims) }"
    told = lengths(model(text, table=normal(9, 4), gain=normal(4), dims=np.array([0, 1, 2])))
    assert told == (9,)


def test_trials_are_bounded_by_number_and_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[tuple[int, ...], ...]] = []

    def refused(self: Trial, feeds: dict[str, Any]) -> Any:
        shapes.append(tuple(array.shape for array in feeds.values()))
        raise TargetError("ONNX Runtime cannot run the model")

    monkeypatch.setattr(Trial, "outputs", refused)
    with pytest.raises(RunsOnNothingError, match="cannot run") as error:
        sampler("float[b,samples] x", WAVE, f"{PLACES}  s = Add (s0, upto)", wave=KERNEL, upto=normal(1, 499, 499))
    tokens = [samples // 16 for ((_, samples),) in shapes]
    assert sum(tokens) <= start.TOKENS and max(tokens) <= start.LONGEST and len(set(shapes)) == len(shapes)
    assert f"tried {len(shapes)} samples, the first with x: sound" in error.value.why


def test_no_sample_is_tried_twice_at_both_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    never = model("g (float[n,4] x) => (float[7,4] y) { y = Reshape (x, dims) }", dims=np.array([7, 4]))
    searched: list[Hints] = []
    search = start.start

    def counted(inputs: Any, options: Any, trial: Trial, hints: Hints) -> Any:
        searched.append(hints)
        return search(inputs, options, trial, hints)

    monkeypatch.setattr("bct_onnx.runtime.understanding.choice.start", counted)
    check = Reference(None, never, None)
    assert len(searched) == 1 and "does not run on made-up inputs" in check.skipped and "tried" in check.skipped
    assert isinstance(never, ir.Model) and session(never)


def test_a_size_that_cannot_be_made_is_said() -> None:
    huge = model("g (float[n,4611686018427387904] x) => (float[n,m] y) { y = Neg (x) }")
    with pytest.raises(TargetError, match="no values can be made"):
        Sampler(huge, session(huge))
    assert "values" in Reference(None, huge, None).skipped
