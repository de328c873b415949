"""Distillation learns, returns its start where it does not, and repeats itself."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.base import Applied
from bct_onnx.errors import UsageError
from bct_onnx.progress import listening
from bct_onnx.registry import PASSES, parse
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.session import run, session
from bct_onnx.runtime.understanding import Sampler
from tests.graph.test_layers import repeated
from tests.passes import small
from tests.training.test_student import constants, stored

STORED = "quantize-embeddings{bits=2},quantize-weights{bits=2}"
LAYERS = """
e = Gather (table, ids)  n = LayerNormalization (e, gamma, beta)  h = MatMul (n, up)  a = Gelu (h)  d = MatMul (a, down)
r = Add (e, d)  m = LayerNormalization (r, gamma, beta)  logits = MatMul (m, head)
"""


def classifier() -> ir.Model:
    """One layer of seeded random weights over 96 words."""
    arrays = {
        "table": small.normal(96, 64, seed=1),
        "gamma": small.normal(64, seed=2) / 10 + 1,
        "beta": small.normal(64, seed=3) / 10,
        "up": small.normal(64, 128, seed=4) / 8,
        "down": small.normal(128, 64, seed=5) / 8,
        "head": small.normal(64, 32, seed=6) / 8,
    }
    return small.model(f"g (int64[n,s] ids) => (float[n,s,32] logits) {{ {LAYERS} }}", **arrays)


def distilled(options: str) -> tuple[ir.Model, Applied]:
    """The classifier in 2 bits, trained on random tokens."""
    model = stored(classifier(), STORED)
    [distill] = parse(f"distill{{samples=128 batch=16 sequence=16 {options}}}")
    return model, distill(model)


@pytest.mark.train
def test_a_run_gets_nearer_to_its_teacher_on_unseen_inputs() -> None:
    rounded = stored(classifier(), STORED)
    trained, applied = distilled("steps=80 rate=0.02")
    feeds = {"ids": np.random.default_rng(77).integers(0, 96, (32, 16))}
    [exact] = run(session(classifier()), feeds)
    errors = [np.square(run(session(model), feeds)[0] - exact).sum() for model in (rounded, trained)]
    assert errors[1] < 0.6 * errors[0]
    assert applied.sites
    assert "random tokens" in applied.note
    changed = {name for name, data in constants(trained).items() if data != constants(rounded)[name]}
    assert any(name.endswith(".codes") for name in changed)
    assert not any(name.endswith(".multipliers") for name in changed)


@pytest.mark.train
def test_a_run_that_does_not_beat_its_start_returns_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for rate in ("RATE_SCALES", "RATE_FLOATS"):
        monkeypatch.setattr(f"bct_onnx.training.distilling.{rate}", 1e3)
    model, applied = distilled("steps=4 rate=1000")
    assert constants(model) == constants(stored(classifier(), STORED))
    assert not applied.sites
    assert "did not lower" in applied.declined[0].reason


@pytest.mark.train
def test_codes_that_move_too_fast_do_not_lose_what_norms_and_scales_have_gained() -> None:
    rounded = stored(classifier(), STORED)
    model, applied = distilled("steps=8 rate=1e6")
    assert applied.sites
    changed = {name for name, data in constants(model).items() if data != constants(rounded)[name]}
    assert changed
    assert not any(name.endswith(".codes") for name in changed)


@pytest.mark.train
def test_the_same_seed_gives_the_same_bytes() -> None:
    first, again, other = (distilled(f"steps=8 seed={seed}")[0] for seed in (3, 3, 4))
    assert constants(first) == constants(again)
    assert constants(first) != constants(other)


@pytest.mark.train
def test_a_trained_model_goes_all_the_way(tmp_path: Path) -> None:
    pipeline = parse(f"lift,{STORED},distill{{samples=64 steps=8}},quantize-activations,halve-floats")
    report = rewrite(classifier(), pipeline, options=Options(output=tmp_path / "out.onnx", accept=True))
    step = next(step for step in report.steps if step.text.startswith("distill"))
    assert "held-back" in step.note
    assert (tmp_path / "out.onnx").is_file()


@pytest.mark.train
@pytest.mark.parametrize("interrupted", ["stop", "keep"])
def test_an_interrupt_does_what_was_asked_for(interrupted: str) -> None:
    def interrupt(detail: str) -> None:
        if detail.startswith("step 12 "):
            raise KeyboardInterrupt

    with listening(interrupt):
        if interrupted == "stop":
            with pytest.raises(KeyboardInterrupt):
                distilled("steps=40")
            return
        model, applied = distilled("steps=40 interrupted=keep")
    assert "after 10 of 40 steps" in applied.note
    assert constants(model) != constants(stored(classifier(), STORED))


@pytest.mark.train
def test_fewer_and_thinner_layers_learn_from_the_whole_model() -> None:
    pipeline = "drop-layers{keep=0|3},factorize{rank=24 keep=w0},quantize-weights"
    whole = session(repeated(4))
    feeds = Sampler(repeated(4), whole).sample(64, 1, seed=99)
    [exact] = run(whole, feeds)
    models = [stored(repeated(4), pipeline) for _ in range(2)]
    [distill] = parse("distill{steps=150 rate=0.03 samples=256}")
    distill(models[1])
    errors = [float(np.square(run(session(model), feeds)[0] - exact).sum()) for model in models]
    assert errors[1] < 0.8 * errors[0]


def test_nothing_to_train_is_declined() -> None:
    model = small.model("g (float[n,64] x) => (float[n,64] y) { y = MatMul (x, w) }", w=small.normal(64, 64))
    applied = PASSES["distill"]()(model)
    assert "nothing before it" in applied.declined[0].reason


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("bct_onnx.training.")]:
        if name.rpartition(".")[2] not in ("region", "reading"):
            monkeypatch.delitem(sys.modules, name)
    text = "g (float[n,64] x) => (float[n,64] y) { y = MatMul (x, w) }"
    model = stored(small.model(text, w=small.normal(64, 64)), "quantize-weights{bits=2}")
    with pytest.raises(UsageError, match=r"bct-onnx\[train\]"):
        PASSES["distill"]()(model)


@pytest.mark.parametrize("options", ["steps=-1", "batch=0", "rate=0", "samples=0"])
def test_senseless_options_are_refused(options: str) -> None:
    with pytest.raises(UsageError, match="is not allowed"):
        parse(f"distill{{{options}}}")
