"""Each ingredient alone, on the bundled model, whose operators are all that there are ingredients for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from bct_onnx import registry
from bct_onnx.errors import GateError, InputModelError, UsageError
from bct_onnx.study.by_ingredient import by_ingredient, chosen
from bct_onnx.study.candidates import open_study
from bct_onnx.study.comparison import Comparison, Measuring
from bct_onnx.study.result import Sensitivity
from bct_onnx.tasks.catalogue import load_task
from tests.runtime import tiny
from tests.whole_models import Compressed

PARTS = [name for name in registry.INGREDIENTS if name not in registry.PRESETS]


def quiet(label: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


def measure(model: Path, *names: str) -> Sensitivity:
    with open_study(model, "ort-cpu", Measuring(rounds=0), quiet) as opened:
        return by_ingredient(opened, chosen(names))


@pytest.fixture(scope="module")
def whole(bundled_model: Path) -> Sensitivity:
    return measure(bundled_model)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder


@pytest.mark.parametrize("name", registry.INGREDIENTS)
def test_the_text_parses_and_leaves_the_lowering_to_the_target(name: str) -> None:
    pipeline = registry.parse(registry.INGREDIENTS[name])
    assert registry.parse(str(pipeline)) == pipeline
    assert not {one.name for one in pipeline} & {
        one.name for text in registry.TARGETS for one in registry.lowering(text)
    }


def test_every_ingredient_changes_something(whole: Sensitivity) -> None:
    assert [row.name for row in whole.rows] == list(registry.INGREDIENTS) and whole.left_out == ()
    assert all(row.places > 0 for row in whole.rows if row.name != "lift")


def test_each_costs_something_and_none_breaks_the_model(whole: Sensitivity) -> None:
    sqnr = {row.name: row.figures.sqnr_db for row in whole.rows if row.figures is not None}
    assert sqnr.pop("lift") > 100
    assert all(10 < value < 80 for value in sqnr.values()), sqnr
    assert max(sqnr["fast"], sqnr["bct-plus"]) < min(sqnr[name] for name in PARTS)
    assert sqnr["bct"] < sqnr["bct-plus"]


def test_only_weights_and_tables_make_it_smaller(whole: Sensitivity) -> None:
    ratio = {row.name: row.ratio for row in whole.rows}
    assert ratio["embeddings"] > 1.5 and ratio["weights"] > 1.5 and ratio["fast"] > 7
    others = set(PARTS) - {"embeddings", "weights"}
    assert all(0.99 < ratio[name] < 1.01 for name in others)


def test_what_stays_float_is_counted(whole: Sensitivity) -> None:
    (small,) = next(row for row in whole.rows if row.name == "weights").declined
    assert small.reason == "fewer than 1024 values"
    (row,) = [row for row in whole.rows if row.name == "bct-plus"]
    assert row.places == sum(row.changed.values()) and row.changed["integer-gelu"] == 3


def test_a_row_does_not_depend_on_the_others(whole: Sensitivity, bundled_model: Path) -> None:
    alone = measure(bundled_model, "attention", "embeddings")
    assert [row.name for row in alone.rows] == ["embeddings", "attention"]
    assert list(alone.rows) == [row for row in whole.rows if row.name in ("embeddings", "attention")]


def test_what_has_no_place_is_left_out_and_told(tmp_path: Path) -> None:
    onnx.save(tiny.encoder(vocabulary=200), tmp_path / "m.onnx")
    found = measure(tmp_path / "m.onnx", "gelu", "weights", "embeddings")
    assert [row.name for row in found.rows] == ["embeddings"]
    assert dict(found.left_out) == {
        "weights": "fewer than 1024 values",
        "gelu": "this model has no place for it",
    }
    with pytest.raises(GateError, match="no ingredient changes anything") as caught:
        measure(tmp_path / "m.onnx", "gelu", "sigmoid")
    assert caught.value.exit_code == 1 and "gelu: this model has no place for it" in str(caught.value)


def test_unknown_ingredients_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'attention'"):
        chosen(["atention"])
    with pytest.raises(UsageError, match="ingredients: lift, embeddings"):
        chosen(["gelu", "xyz"])


def test_a_quantized_model_is_refused(compressed: Callable[..., Compressed]) -> None:
    with pytest.raises(InputModelError, match="already quantized"):
        measure(compressed("w4").file, "gelu")


def test_nothing_is_left_behind(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(tiny.encoder(vocabulary=200), tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx").read_bytes()
    measure(tmp_path / "m.onnx", "embeddings")
    assert list(temporary.iterdir()) == []
    seen: list[Path] = []

    def stop(self: Comparison, files: dict[str, Path]) -> None:
        seen.extend(file for file in files.values() if file.is_file())
        raise KeyboardInterrupt

    monkeypatch.setattr(Comparison, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path / "m.onnx", "embeddings")
    assert seen and list(temporary.iterdir()) == []
    assert (tmp_path / "m.onnx").read_bytes() == before


def test_candidates_that_do_not_fit_together_are_measured_one_by_one(
    whole: Sensitivity, bundled_model: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[int] = []
    measured = Comparison.measure

    def watched(self: Comparison, files: dict[str, Path]) -> object:
        together.append(len(files))
        assert len([*temporary.rglob("*.onnx")]) <= 2
        return measured(self, files)

    monkeypatch.setattr(Comparison, "measure", watched)
    monkeypatch.setattr("bct_onnx.study.candidates.TOGETHER", 1)
    found = measure(bundled_model, "lift", "embeddings", "gelu")
    assert together == [1, 1, 1]
    assert list(found.rows) == [row for row in whole.rows if row.name in ("lift", "embeddings", "gelu")]


FLOORS = {
    "lift": 100.0,
    "embeddings": 26.0,
    "weights": 18.0,
    "activations-static": 22.0,
    "activations-token": 34.0,
    "activations-block": 38.0,
    "gelu": 21.0,
    "sigmoid": 46.0,
    "attention": 34.0,
    "residual": 28.0,
    "norm": 28.0,
    "softmax": 32.0,
}
"""SQNR in dB that each ingredient alone keeps on a six-layer MiniLM; the README's table has the figures."""


@pytest.mark.real
@pytest.mark.export
def test_each_ingredient_alone_on_a_real_model(exported: Callable[..., Path], real_dir: Path) -> None:
    data, tokenizer = real_dir / "data/sst2/dev.tsv", real_dir / "models/minilm-sst2"
    measuring = Measuring(load_task("classification", data, tokenizer, limit=200), "classification", rounds=0)
    with open_study(exported("minilm-sst2"), "ort-cpu", measuring, quiet) as opened:
        found = by_ingredient(opened, chosen([*FLOORS]))
    figures = {row.name: row.figures for row in found.rows if row.figures is not None}
    assert set(figures) == set(FLOORS) == {"lift", *PARTS} and found.left_out == ()
    for name, floor in FLOORS.items():
        drop = figures[name].drop
        assert figures[name].sqnr_db >= floor, name
        assert drop is not None and drop <= 1.5, name


def test_noise_of_the_models_own_is_its_mean(tmp_path: Path) -> None:
    text = """
    <ir_version: 9, opset_import: ["" : 18]>
    noisy (int64[batch, sequence] input_ids) => (float[batch, sequence, 8] y) {
      words = Gather (table, input_ids)  noise = RandomNormalLike (words)  sum = Add (words, noise)
      y = MatMul (sum, weight)
    }
    """
    proto, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    for name, shape in {"table": (64, 8), "weight": (8, 8)}.items():
        array = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(proto, tmp_path / "m.onnx")
    (row,) = measure(tmp_path / "m.onnx", "lift").rows
    assert row.figures is not None and row.figures.sqnr_db > 100
