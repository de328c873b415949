"""Plans of a small model: sizes that come true, bits where they count, a recipe that repeats the run, and the cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bct_onnx import recipe, registry
from bct_onnx.errors import GateError, InputModelError, UsageError
from bct_onnx.planning import Plan, measure, plan
from bct_onnx.planning.plan import planned
from bct_onnx.rewriting import rewrite
from tests.passes.small import model as handmade_model
from tests.passes.small import normal
from tests.planning import small

Make = Callable[..., Plan]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def with_data(tmp_path_factory: pytest.TempPathFactory) -> str:
    data = small.tokens(tmp_path_factory.mktemp("data"))
    return small.PIPELINE.replace("samples", f'data="{data}" samples')


@pytest.fixture(scope="module")
def make(source: Path, cache: Path) -> Make:
    def make(text: str = small.PIPELINE, *, ratio: float | None = None, bits: float | None = None) -> Plan:
        return plan(source, small.pipeline(text), "portable", ratio=ratio, bits=bits, cache=cache)

    return make


@pytest.mark.parametrize("ratio", [7.0, 9.0, 11.0])
def test_the_predicted_size_is_the_size(make: Make, source: Path, ratio: float) -> None:
    made = make(ratio=ratio)
    after = rewrite(source, made.passes(), target="portable").after
    assert 8 * after.nbytes == made.bits
    assert ratio <= made.ratio < 1.05 * ratio


def test_bits_per_parameter_are_the_same_as_a_ratio(make: Make) -> None:
    assert make(bits=3.2).chosen == make(ratio=10.0).chosen


def test_bits_go_where_noise_comes_from(make: Make) -> None:
    one = make(bits=3.5)
    made = {item.name: option for item, option in zip(one.measured.items, one.chosen, strict=True)}
    sizes = {item.name: item.values for item in one.measured.items}
    loud, quiet = (made[name].bits / sizes[name] for name in ("loud", "quiet"))
    assert loud > quiet + 0.9
    assert one.noise == pytest.approx(sum(option.noise for option in made.values()))


def test_noise_falls_with_the_size(make: Make) -> None:
    noises = [make(ratio=ratio).noise for ratio in (5.0, 7.0, 9.0, 11.0)]
    assert noises == sorted(noises) and noises[-1] > 4 * noises[0] > 0


def test_predicted_noise_is_near_the_measured(source: Path, make: Make) -> None:
    """Of the whole model, all tensors stored at once; on other tokens than it was predicted from."""
    from bct_onnx.planning.noise import Outputs
    from bct_onnx.runtime.feeds import random_feeds
    from bct_onnx.runtime.session import run, session
    from bct_onnx.tasks.deviation import DeviationSums

    made = make(ratio=8.0)
    assert made.measured.unit == "KL"
    feeds = [random_feeds(small.model(), batch=8, sequence=32, seed=seed, vocab=400) for seed in range(4)]
    report = rewrite(small.model(), made.passes(), target="portable")
    assert report.after.ratio_parameters > 7.9
    result = small.model()
    rewrite(result, made.passes(), target="portable")
    exact, stored = session(small.model()), session(result)
    sums = DeviationSums(logits=True)
    for each in feeds:
        pair = (run(one, each)[0].reshape(-1, 80) for one in (exact, stored))
        sums.add(*pair)
    total = sums.total()
    assert total is not None and total.kl is not None
    assert 0.5 < total.kl / made.noise < 2.0
    assert Outputs(small.model(), ["loud"], feeds).noise([{}] * 4) == pytest.approx(0.0, abs=1e-6)


def test_frequent_rows_of_a_table_get_more_bits(make: Make, with_data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bct_onnx.planning.ranges.SPLIT", 100)
    one = make(with_data, bits=3.2)
    table = one.chosen[[item.name for item in one.measured.items].index("table")]
    bits = [int(text.partition("/")[0]) for text in table.formats]
    assert 2 <= len(bits) <= 4 and bits[0] > bits[-1]
    assert table.formats[0].partition("@")[2].startswith("0-") and table.formats[-1].endswith("-400")
    after = rewrite(one.source, one.passes(), target="portable").after
    assert 8 * after.nbytes == one.bits


def test_the_recipe_repeats_the_run(make: Make, tmp_path: Path, source: Path) -> None:
    made = make(ratio=9.0)
    file = tmp_path / "plan.toml"
    file.write_text(made.recipe(), encoding="utf-8")
    pipeline, target = recipe.read(file)
    assert (str(pipeline), target) == (str(made.passes()), "portable")
    assert made.recipe() == make(ratio=9.0).recipe()
    assert f"# {made.bits} bits in all" in made.recipe() and "bits each, noise" in made.recipe()


def test_formats_of_the_user_stay(source: Path, cache: Path, tmp_path: Path) -> None:
    text = small.PIPELINE.replace("solver=gptq", "solver=gptq formats=8:quiet|4:else")
    made = plan(source, small.pipeline(text), "portable", ratio=8.0, cache=cache)
    (file := tmp_path / "plan.toml").write_text(made.recipe(), encoding="utf-8")
    pipeline, _ = recipe.read(file)
    assert str(pipeline) == str(made.passes())
    (weights,) = (dict(one.options(defaults=True)) for one in pipeline if one.name == "quantize-weights")
    formats = weights["formats"]
    assert isinstance(formats, tuple) and formats[-2:] == ("8:quiet", "4:else") and len(formats) == 4
    assert [item.name for item in made.measured.items] == ["table", "loud", "head"]
    assert 8 * rewrite(source, made.passes(), target="portable").after.nbytes == made.bits


def test_names_are_escaped(tmp_path: Path) -> None:
    name = 'a[0]*"b\\|c d'
    graph = handmade_model("g (float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) }", w=normal(64, 64, seed=1))
    graph.graph.initializers["w"].name = name
    onnx.save(ir.to_proto(graph), tmp_path / "m.onnx")
    made = plan(tmp_path / "m.onnx", small.pipeline("quantize-weights"), "portable", bits=4.51)
    (tmp_path / "plan.toml").write_text(made.recipe(), encoding="utf-8")
    pipeline, _ = recipe.read(tmp_path / "plan.toml")
    report = rewrite(tmp_path / "m.onnx", pipeline, target="portable")
    assert 8 * report.after.nbytes == made.bits and made.bits <= 4.51 * 64 * 64
    assert report.steps[0].declined == ()


def test_what_was_measured_is_used_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = plan(source, small.pipeline(), "portable", ratio=9.0, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    monkeypatch.setattr("bct_onnx.planning.measure.prepare", None)
    assert plan(source, small.pipeline(), "portable", ratio=9.0, cache=tmp_path) == first
    other = plan(source, small.pipeline(), "portable", ratio=6.0, cache=tmp_path)
    assert other.measured == first.measured and other.bits > first.bits
    monkeypatch.undo()
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"whole": {"names": 3}, "items": [3, {"name": "x"}, content["items"][0]]}))
    assert plan(source, small.pipeline(), "portable", ratio=9.0, cache=tmp_path) == first


def test_a_stopped_measurement_goes_on(source: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def stop(label: str, done: int, total: int) -> None:
        seen.append(label)
        if label == "measuring quiet":
            raise KeyboardInterrupt

    passes = registry.complete(small.pipeline(), "portable")
    with pytest.raises(KeyboardInterrupt):
        measure.measure(source, passes, stop, folder=tmp_path)
    (file,) = tmp_path.iterdir()
    content = json.loads(file.read_text())
    assert [one["name"] for one in content["items"]] == ["table", "loud"]
    content["items"][1]["options"] = content["items"][1]["options"][:1]
    file.write_text(json.dumps(content))
    found = measure.measure(source, passes, small.quiet, folder=tmp_path)
    assert [len(one.options) for one in found.items] == [10, 1, 10, 10]


def test_shift_schemes_keep_their_block(source: Path) -> None:
    made = plan(source, small.pipeline("quantize-weights{block=16x16 scale=shift}"), "portable", bits=22.5)
    assert {option.formats[0].partition("/")[2] for option in made.chosen} == {"16x16"}
    report = rewrite(source, made.passes(), target="portable")
    assert 8 * report.after.nbytes == made.bits


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("fuse-gelu", GateError, "stores no tensor in few bits"),
        ("quantize-weights{keep=*}", GateError, "no tensor of the model can be quantized"),
        ("calibrate{data=none.npz},quantize-weights", UsageError, "none.npz"),
    ],
)
def test_what_cannot_be_planned(source: Path, text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plan(source, small.pipeline(text), "portable", ratio=8.0)


def test_a_target_is_needed(source: Path) -> None:
    with pytest.raises(UsageError, match="a plan needs one target"):
        plan(source, small.pipeline(), "portable")
    with pytest.raises(InputModelError, match="cannot be found"):
        plan(source.with_name("none.onnx"), small.pipeline(), "portable", ratio=9.0)


def test_plans_of_any_budget(make: Make, source: Path) -> None:
    measured = make(ratio=9.0).measured
    least, most = measured.reachable
    for total in np.linspace(least, most, 9).astype(int).tolist():
        one = planned(source, small.pipeline(), "portable", measured, total - measured.fixed_bits)
        assert one.bits <= total
