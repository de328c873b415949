"""Allocations of a small model: sizes that come true, bits where they count, recipes that repeat runs, the cache."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bct_onnx import recipe, registry
from bct_onnx.base import Pass
from bct_onnx.errors import GateError, InputModelError, UsageError
from bct_onnx.graph import load
from bct_onnx.quant import mixed
from bct_onnx.recipe import with_formats, with_size
from bct_onnx.report import Report
from bct_onnx.rewriting import Options, allotted, rewrite
from bct_onnx.study.allocation import Allocation, allocate, noise_table
from tests.passes.small import model as handmade_model
from tests.passes.small import normal
from tests.study.allocation import small

Make = Callable[..., Allocation]


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


def allocation_of(
    source: Path, text: str = small.PIPELINE, *, target: str = "portable", cache: Path | None = None, **size: Any
) -> Allocation:
    return allotted(source, with_size(small.pipeline(text), **size), target, cache=cache)


def rewritten(
    source: Path, text: str = small.PIPELINE, *, target: str = "portable", cache: Path | None = None, **size: Any
) -> Report:
    return rewrite(source, with_size(small.pipeline(text), **size), target=target, options=Options(cache=cache))


@pytest.fixture(scope="module")
def make(source: Path, cache: Path) -> Make:
    def make(text: str = small.PIPELINE, **size: Any) -> Allocation:
        return allocation_of(source, text, cache=cache, **size)

    return make


@pytest.mark.parametrize("ratio", [7.0, 9.0, 11.0])
def test_the_predicted_size_is_the_size(make: Make, source: Path, cache: Path, ratio: float) -> None:
    report = rewritten(source, cache=cache, ratio=ratio)
    assert report.allocation == make(ratio=ratio)
    assert 8 * report.after.nbytes == report.allocation.bits
    assert ratio <= report.allocation.ratio < 1.05 * ratio


def test_all_is_done_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One load, one calibration, each pass once; a result far off has the model loaded again for its own noise."""
    counts: Counter[str] = Counter()
    run, read = Pass.call, load.load

    def counted_run(one: Pass, model: ir.Model) -> Any:
        counts[one.name] += 1
        return run(one, model)

    def counted_read(*arguments: Any) -> ir.Model:
        counts["load"] += 1
        return read(*arguments)

    monkeypatch.setattr(Pass, "call", counted_run)
    monkeypatch.setattr(load, "load", counted_read)
    options = Options(tmp_path / "out.onnx", cache=tmp_path)
    report = rewrite(source, with_size(registry.preset("bct-plus"), ratio=7.0), options=options)
    assert report.after.ratio_parameters >= 7.0
    assert set(counts.values()) == {1} and {"load", "calibrate", "allocate", "quantize-weights"} <= set(counts)


def test_bits_per_parameter_are_the_same_as_a_ratio(make: Make) -> None:
    assert make(bits=3.2).chosen == make(ratio=10.0).chosen


def test_bits_go_where_noise_comes_from(make: Make) -> None:
    allocation = make(bits=3.5)
    bits = {tensor.name: option.bits / tensor.values for tensor, option in allocation.pairs}
    assert bits["loud"] > bits["quiet"] + 0.9
    assert allocation.noise == pytest.approx(sum(option.noise for option in allocation.chosen))


def test_noise_falls_with_the_size(make: Make) -> None:
    noises = [make(ratio=ratio).noise for ratio in (5.0, 7.0, 9.0, 11.0)]
    assert noises == sorted(noises) and noises[-1] > 4 * noises[0] > 0


def test_predicted_noise_is_near_the_measured(make: Make) -> None:
    """Of the whole model, all tensors stored at once; on other tokens than it was predicted from."""
    from bct_onnx.runtime.feeds import random_feeds
    from bct_onnx.runtime.session import run, session
    from bct_onnx.study.allocation.outputs import Outputs
    from bct_onnx.tasks.deviation import DeviationSums

    allocation = make(ratio=8.0)
    assert allocation.table.unit == "KL"
    feeds = [random_feeds(small.model(), batch=8, sequence=32, seed=seed, vocab=400) for seed in range(4)]
    result = small.model()
    report = rewrite(result, with_formats(small.pipeline(), allocation.formats()), target="portable")
    assert report.after.ratio_parameters > 7.9
    exact, stored = session(small.model()), session(result)
    sums = DeviationSums(logits=True)
    for each in feeds:
        pair = (run(one, each)[0].reshape(-1, 80) for one in (exact, stored))
        sums.add(*pair)
    total = sums.total()
    assert total is not None and total.kl is not None
    assert 0.5 < total.kl / allocation.noise < 2.0
    assert Outputs(small.model(), ["loud"], feeds).noise([{}]) == pytest.approx(0.0, abs=1e-6)


def test_frequent_rows_of_a_table_get_more_bits(source: Path, with_data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bct_onnx.study.allocation.embedding_noise.WORDS", 400)
    report = rewritten(source, with_data, target="ort-cpu", bits=3.2)
    assert report.allocation is not None and report.allocation.table.unseen is not None
    (text,) = next(option.formats for tensor, option in report.allocation.pairs if tensor.name == "table")
    widths = mixed.parse_widths(text.removeprefix("@"))
    assert len(widths) == 400 and widths[:10].min() > widths[10:].max() and 1 < widths[10:].mean() < 4
    assert 8 * report.after.nbytes == report.allocation.bits


def test_positions_get_at_least_two_bits(source: Path, with_data: str) -> None:
    """As any table of so few rows."""
    table = allocation_of(source, with_data, target="ort-cpu", ratio=12.0).table.tensors[0]
    texts = [text for option in table.options for text in option.formats if text.startswith("@")]
    assert len(texts) > 10 and min(int(mixed.parse_widths(text[1:]).min()) for text in texts) == 2


@pytest.mark.parametrize("target", ["openvino", "portable"])
def test_targets_that_store_rows_alike_get_no_widths(source: Path, with_data: str, target: str) -> None:
    allocation = allocation_of(source, with_data, target=target, ratio=6.0)
    assert not any(text.startswith("@") for text in allocation.table.tensors[0].options[-1].formats)


@pytest.mark.parametrize(("more", "ratio"), [("", 6.5), (",quantize-activations{per=static}", 4.8)])
def test_a_plan_knows_what_its_target_writes(source: Path, more: str, ratio: float) -> None:
    """OpenVINO reads codes of 4 bits at least, and of 8 in products of codes."""
    report = rewritten(source, small.PIPELINE + more, target="openvino", ratio=ratio)
    assert report.allocation is not None
    assert report.after.ratio_parameters == pytest.approx(report.allocation.ratio, rel=0.02)
    assert report.after.ratio_parameters > 0.99 * ratio
    with pytest.raises(UsageError, match="a ratio of 9 cannot be reached"):
        allocation_of(source, small.PIPELINE + more, target="openvino", ratio=9.0)


def test_without_data_no_row_has_less_than_two_bits(make: Make) -> None:
    formats = [option.formats for tensor in make(ratio=9.0).table.tensors for option in tensor.options]
    assert all(not text.startswith(("@", "1")) for texts in formats for text in texts)


def test_a_recipe_with_widths_of_rows_repeats_the_run(source: Path, with_data: str, tmp_path: Path) -> None:
    report = rewritten(source, with_data, target="ort-cpu", ratio=12.0)
    assert report.allocation is not None
    text = report.allocation.recipe("small.onnx", small.pipeline(with_data), "ort-cpu")
    assert "rows by use: " in text
    (file := tmp_path / "plan.toml").write_text(text, encoding="utf-8")
    pipeline, target = recipe.read(file)
    again = rewrite(source, registry.parse(str(pipeline)), target=target)
    assert again.after == report.after


def test_the_recipe_repeats_the_run(make: Make, tmp_path: Path, source: Path, cache: Path) -> None:
    allocation = make(ratio=9.0)
    text = allocation.recipe("small.onnx", small.pipeline(), "portable")
    file = tmp_path / "plan.toml"
    file.write_text(text, encoding="utf-8")
    pipeline, target = recipe.read(file)
    assert (str(pipeline), target) == (str(with_formats(small.pipeline(), allocation.formats())), "portable")
    assert f"# {allocation.bits} bits in all" in text and "bits each, noise" in text
    sized, fixed = ir.load(source), ir.load(source)
    rewrite(sized, with_size(small.pipeline(), ratio=9.0), target="portable", options=Options(cache=cache))
    rewrite(fixed, pipeline, target="portable")
    for name, value in sized.graph.initializers.items():
        assert value.const_value is not None
        other = fixed.graph.initializers[name].const_value
        assert other is not None and other.tobytes() == value.const_value.tobytes()


def test_formats_of_the_user_stay(source: Path, tmp_path: Path) -> None:
    text = small.PIPELINE.replace("solver=gptq", "solver=gptq formats=8:quiet|4:else")
    report = rewritten(source, text, ratio=8.0)
    allocation = report.allocation
    assert allocation is not None and 8 * report.after.nbytes == allocation.bits
    assert [tensor.name for tensor in allocation.table.tensors] == ["table", "loud", "head"]
    (file := tmp_path / "plan.toml").write_text(allocation.recipe("m", small.pipeline(text), "portable"), "utf-8")
    pipeline, _ = recipe.read(file)
    (weights,) = (dict(one.options(defaults=True)) for one in pipeline if one.name == "quantize-weights")
    formats = weights["formats"]
    assert isinstance(formats, tuple) and formats[-2:] == ("8:quiet", "4:else") and len(formats) == 4
    assert 8 * rewrite(source, pipeline, target="portable").after.nbytes == allocation.bits


def test_names_are_escaped(tmp_path: Path) -> None:
    name = 'a[0]*"b\\|c d'
    graph = handmade_model("g (float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) }", w=normal(64, 64, seed=1))
    graph.graph.initializers["w"].name = name
    onnx.save(ir.to_proto(graph), tmp_path / "m.onnx")
    report = rewritten(tmp_path / "m.onnx", "quantize-weights", bits=4.51)
    allocation = report.allocation
    assert allocation is not None and allocation.bits <= 4.51 * 64 * 64
    text = allocation.recipe("m\n.onnx", small.pipeline("quantize-weights"), "portable")
    (tmp_path / "plan.toml").write_text(text, encoding="utf-8")
    pipeline, _ = recipe.read(tmp_path / "plan.toml")
    for again in (report, rewrite(tmp_path / "m.onnx", pipeline, target="portable")):
        assert 8 * again.after.nbytes == allocation.bits
        assert again.steps[-3].declined == ()


def test_what_was_measured_is_used_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = allocation_of(source, cache=tmp_path, ratio=9.0)
    (file,) = tmp_path.iterdir()
    monkeypatch.setattr(noise_table, "_Bench", None)
    assert allocation_of(source, cache=tmp_path, ratio=9.0) == first
    other = allocation_of(source, cache=tmp_path, ratio=6.0)
    assert other.table == first.table and other.bits > first.bits
    monkeypatch.undo()
    content = json.loads(file.read_text())
    file.write_text(json.dumps({"tensors": [3, {"name": "x"}, content["tensors"][0]]}))
    assert allocation_of(source, cache=tmp_path, ratio=9.0) == first


def test_a_stopped_measurement_goes_on(source: Path, tmp_path: Path) -> None:
    def stop(label: str, done: int, total: int) -> None:
        if label.endswith("tensor 3 of 4, quiet"):
            raise KeyboardInterrupt

    sized = with_size(small.pipeline(), ratio=9.0)
    with pytest.raises(KeyboardInterrupt):
        allotted(source, sized, "portable", cache=tmp_path, progress=stop)
    (file,) = tmp_path.iterdir()
    content = json.loads(file.read_text())
    assert [one["name"] for one in content["tensors"]] == ["table", "loud"]
    content["tensors"][1]["options"] = content["tensors"][1]["options"][:1]
    file.write_text(json.dumps(content))
    table = allocation_of(source, cache=tmp_path, ratio=9.0).table
    assert [len(one.options) for one in table.tensors] == [16, 1, 16, 16]


def test_shift_schemes_keep_their_block(source: Path) -> None:
    report = rewritten(source, "quantize-weights{block=16x16 scale=shift}", bits=22.5)
    assert report.allocation is not None and 8 * report.after.nbytes == report.allocation.bits
    assert {option.formats[0].partition("/")[2] for option in report.allocation.chosen} == {"16x16"}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("fuse-gelu", GateError, "no pass ahead stores a tensor"),
        ("quantize-weights{keep=*}", GateError, "no pass ahead stores a tensor"),
        ("calibrate{data=none.npz},quantize-weights", UsageError, "none.npz"),
    ],
)
def test_what_cannot_be_allotted(source: Path, text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        allocation_of(source, text, ratio=8.0)


def test_a_size_is_needed(source: Path) -> None:
    with pytest.raises(UsageError, match="allocate needs one size"):
        allocation_of(source)
    with pytest.raises(UsageError, match="allocate needs one size"):
        allocation_of(source, ratio=9.0, bits=3.0)
    with pytest.raises(UsageError, match="is no size"):
        allocation_of(source, ratio=-3.0)
    with pytest.raises(UsageError, match="no pass allots formats"):
        allotted(source, small.pipeline(), "portable")
    with pytest.raises(InputModelError, match="cannot be found"):
        allocation_of(source.with_name("none.onnx"), ratio=9.0)


def test_allocations_of_any_size(make: Make) -> None:
    table = make(ratio=9.0).table
    for total in np.linspace(*table.reachable, 9).astype(int).tolist():
        assert allocate(table, total).bits <= total
