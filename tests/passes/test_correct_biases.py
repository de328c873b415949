"""Biases take back what rounding has moved on average, for texts like those that calibrate."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.base import Applied
from bct_onnx.course import Course
from bct_onnx.errors import UsageError
from bct_onnx.graph import before, tensors
from bct_onnx.graph.tensors import Array
from bct_onnx.registry import parse
from bct_onnx.rewriting import rewrite
from bct_onnx.runtime.partial import Partial
from bct_onnx.runtime.session import run, session
from bct_onnx.tasks import mean_errors, own_text
from bct_onnx.tasks.calibration import CalibrationData
from passes.correct_biases import CorrectBiases
from tests.passes import small

STORED = "quantize-embeddings{bits=2},quantize-weights{bits=2}"
LAYERS = """
e = Gather (table, ids)  n = LayerNormalization (e, gamma, beta)  h = MatMul (n, up)  i = Add (h, inner)  a = Gelu (i)
d = MatMul (a, down)  o = Add (outer, d)  r = Add (e, o)  m = LayerNormalization (r, gamma, SECOND)
logits = MatMul (m, head)
"""


def encoder(second: str = "other") -> ir.Model:
    """One layer of seeded random weights over 96 words."""
    arrays = {
        "table": small.normal(96, 64, seed=1),
        "gamma": small.normal(64, seed=2) / 10 + 1,
        "beta": small.normal(64, seed=3) / 10,
        "up": small.normal(64, 128, seed=4) / 8,
        "inner": small.normal(128, seed=5) / 10,
        "down": small.normal(128, 64, seed=6) / 8,
        "outer": small.normal(64, seed=7) / 10,
        "head": small.normal(64, 32, seed=9) / 8,
    }
    if second == "other":
        arrays["other"] = small.normal(64, seed=8) / 10
    layers = LAYERS.replace("SECOND", second)
    return small.model(f"g (int64[n,s] ids) => (float[n,s,32] logits) {{ {layers} }}", **arrays)


def texts(count: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Sequences of 12 words of which few come often, as in text."""
    drawn = np.random.default_rng(seed).geometric(0.2, (count, 12))
    return np.minimum(drawn, 95).astype(np.int64)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "texts.npz"
    np.savez(file, ids=texts(128, seed=1))
    return file


def corrected(model: ir.Model, given: str) -> Applied:
    """What becomes of the biases of a model that is calibrated and stored in 2 bits; it is changed in place."""
    passes = tuple(parse(f"calibrate{{samples=0 {given}}},{STORED},correct-biases"))
    for number, each in enumerate(passes):
        Course(passes, number).show(model)
        applied = each(model)
    return applied


def stored(second: str = "other") -> ir.Model:
    """The model in 2 bits, with its biases as they were."""
    model = encoder(second)
    for each in parse(STORED):
        each(model)
    return model


def constants(model: ir.Model) -> dict[str, bytes]:
    """The data of all initializers that a node reads."""
    return {name: tensors.array(value).tobytes() for name, value in model.graph.initializers.items() if value.uses()}


def error(model: ir.Model) -> float:
    """Of the outputs on texts of the same kind that nobody has seen."""
    feeds = {"ids": texts(256, seed=2)}
    [exact], [approximate] = (run(session(each), feeds) for each in (encoder(), model))
    return float(np.square(approximate - exact).sum())


def test_outputs_get_nearer_on_texts_of_the_same_kind(data: Path) -> None:
    model = encoder()
    applied = corrected(model, f"data={data}")
    assert error(model) < 0.95 * error(stored())
    assert [site.name for site in applied.sites] == ["n", "m"]
    assert "24 held-back texts" in applied.note
    small.check(model)


def test_nothing_but_biases_is_changed(data: Path) -> None:
    model = encoder()
    corrected(model, f"data={data}")
    was, now = constants(stored()), constants(model)
    assert {name.removesuffix(".corrected") for name in now} == set(was)
    assert {name for name in was if now.get(name) != was[name]} == {"beta", "other"}


def test_means_are_what_they_were(data: Path) -> None:
    """One after the other: the last one's would be off if those before it had not moved yet when it was measured."""
    model = encoder()
    corrected(model, f"data={data}")
    feeds = {"ids": texts(128, seed=1)}
    for name in ("n", "m"):
        wanted, mean, unmoved = (_mean(each, name, feeds) for each in (encoder(), model, stored()))
        assert np.square(mean - wanted).sum() < 0.15 * np.square(unmoved - wanted).sum(), name


def _mean(model: ir.Model, name: str, feeds: dict[str, Array]) -> Array:
    mean: Array = Partial(model, [name])(feeds)[name].mean(axis=(0, 1), dtype=np.float64)
    return mean


def test_codes_are_seen_through(data: Path) -> None:
    """A normalization whose output became codes is the one that had its name before."""
    coded = "split-units,quantize-activations{per=static},quantize-intermediates,correct-biases,integer-layer-norm"
    report = rewrite(encoder(), f"calibrate{{samples=0 data={data}}},{STORED},{coded}", target="portable")
    step = next(step for step in report.steps if step.text == "correct-biases")
    assert [site.name for site in step.sites] == ["n", "m"]


def test_a_normalization_may_be_the_output(data: Path) -> None:
    arrays = {
        "table": small.normal(96, 64, seed=1),
        "w": small.normal(64, 64, seed=2) / 8,
        "gamma": small.normal(64, seed=3) / 10 + 1,
        "beta": small.normal(64, seed=4) / 10,
    }
    layers = "e = Gather (table, ids)  h = MatMul (e, w)  y = LayerNormalization (h, gamma, beta)"
    model = small.model(f"g (int64[n,s] ids) => (float[n,s,64] y) {{ {layers} }}", **arrays)
    assert [site.name for site in corrected(model, f"data={data}").sites] == ["y"]
    assert [output.name for output in model.graph.outputs] == ["y"]
    small.check(model)


def test_the_same_again(data: Path) -> None:
    first, second = encoder(), encoder()
    for model in (first, second):
        corrected(model, f"data={data}")
    assert constants(first) == constants(second)


def test_random_tokens_tell_nothing_of_means() -> None:
    model = encoder()
    applied = corrected(model, "")
    assert not applied.sites
    assert "random tokens" in applied.declined[0].reason
    assert constants(model) == constants(stored())


def test_text_of_ours_tells_nothing_of_a_users() -> None:
    model = encoder()
    CalibrationData(own_text.FILE).leave(model)
    passes = tuple(parse(f"{STORED},correct-biases"))
    for number, each in enumerate(passes):
        Course(passes, number).show(model)
        applied = each(model)
    assert "text of ours" in applied.declined[0].reason
    assert constants(model) == constants(stored())


def test_a_bias_that_two_nodes_share_stays(data: Path) -> None:
    applied = corrected(encoder("beta"), f"data={data}")
    assert [each.name for each in applied.declined] == ["n", "m", "g"]
    assert "'beta' is used elsewhere" in applied.declined[0].reason
    assert "no normalization has a bias of its own" in applied.declined[-1].reason


def test_what_does_more_harm_than_good_is_not_kept(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = mean_errors.Corrected.measure

    def wrong(self: mean_errors.Corrected, batches: Iterable[mean_errors.Expected]) -> mean_errors.Moves:
        return {name: -3 * move for name, move in measure(self, batches).items()}

    monkeypatch.setattr(mean_errors.Corrected, "measure", wrong)
    model = encoder()
    applied = corrected(model, f"data={data}")
    assert not applied.sites
    assert "held-back" in applied.declined[0].reason
    assert constants(model) == constants(stored())


def test_one_text_is_too_few_to_judge_by(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", ids=texts(1, seed=1))
    applied = corrected(encoder(), f"data={tmp_path / 'one.npz'}")
    assert "fewer than two texts" in applied.declined[0].reason


def test_samples_that_leave_none_to_judge_by_are_refused() -> None:
    with pytest.raises(UsageError, match="samples=1"):
        CorrectBiases(samples=1)


def test_distill_behind_it_still_has_its_teacher(data: Path) -> None:
    model = encoder()
    passes = tuple(parse(f"calibrate{{samples=0 data={data}}},{STORED},correct-biases,distill"))
    for number, each in enumerate(passes[:-1]):
        Course(passes, number).show(model)
        each(model)
    assert before.of(model) is not None
