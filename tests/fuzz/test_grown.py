"""What grows is sound, and a slice of ``python -m tests.fuzz --grown``."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest

from bct_onnx.runtime.session import run, session
from tests.fuzz.grown import Grown, GrownCase, judge
from tests.fuzz.judge import Verdict
from tests.fuzz.running import Runner

pytestmark = pytest.mark.whole

SEED, CASES = 11, 16


@functools.cache
def models() -> list[Grown]:
    return [GrownCase(SEED, number).grow() for number in range(120)]


def test_every_model_is_sound_and_its_samples_say_something() -> None:
    for grown in models():
        onnx.checker.check_model(grown.model, full_check=True)
        runner = session(grown.model.SerializeToString())
        outputs = [run(runner, sample)[0] for sample in grown.samples]
        assert all(np.isfinite(each).all() and each.std() > 0 for each in outputs), grown.about


def test_all_places_and_kinds_come_up() -> None:
    about = set[str]().union(*(grown.about for grown in models()))
    assert {
        "wave",
        "wave in integers",
        "wave of one row",
        "picture of bytes",
        "mask: lengths",
        "mask: pad",
        "Einsum",
        "Conv of one token",
        "SiLU",
    } <= about


def test_results_agree_with_their_sources() -> None:
    with Runner() as runner:
        for number in range(CASES):
            case = GrownCase(SEED, number)
            verdict = runner.judge(case)
            assert not verdict.failed, (
                f"--grown --seed {SEED} --only {number}: {case}\n{verdict.kind}\n{verdict.detail}"
            )


def test_a_result_that_has_nothing_to_do_with_its_source_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = GrownCase(SEED, 0)
    other = session(GrownCase(SEED, 0).grow().model.SerializeToString())

    def reversed_outputs(path: Path, grown: object) -> object:
        found = [run(other, sample) for sample in case.grow().samples]
        return found if path.name == "model.onnx" else [[-each for each in sample] for sample in found]

    monkeypatch.setattr(judge, "_rewritten", lambda source, preset, target: tmp_path / f"{preset}.onnx")
    monkeypatch.setattr(judge, "_outputs", reversed_outputs)
    verdict: Verdict = judge.judge(case, tmp_path)
    assert verdict.failed and "far from its source" in verdict.kind


@pytest.mark.parametrize(("noise", "failed"), [(2.0, False), (5.0, True)])
def test_probabilities_are_related_where_their_scores_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: float, failed: bool
) -> None:
    """The reference is as far away, so that the floor alone tells them apart."""
    rng = np.random.default_rng(0)
    scores = 4 * rng.standard_normal((3, 20, 96))
    moved = scores + noise * rng.standard_normal(scores.shape)
    before, after = (np.exp(each) / np.exp(each).sum(axis=-1, keepdims=True) for each in (scores, moved))
    case = next(each for each in map(functools.partial(GrownCase, SEED), range(60)) if each.pipeline()[0] == "bct")
    monkeypatch.setattr(judge, "_rewritten", lambda source, preset, target: source.with_name(f"{preset}.onnx"))
    monkeypatch.setattr(judge, "_outputs", lambda path, grown: [[before if path.name == "model.onnx" else after]])
    (tmp_path / "bct.onnx").write_bytes(b"x")
    verdict = judge.judge(case, tmp_path)
    assert ("far from its source" in verdict.kind) == failed
    assert judge._worst([[before]], [[after]]) < judge.LEAST_DB
