"""A pipeline pass by pass, and its weights one by one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bct_onnx import registry
from bct_onnx.base import Pass
from bct_onnx.errors import GateError
from bct_onnx.graph.inventory import Weight as Stored
from bct_onnx.graph.load import load
from bct_onnx.runtime.session import session
from bct_onnx.runtime.statistics import ChannelStatistics
from bct_onnx.runtime.understanding import Sampler
from bct_onnx.study.by_ingredient import by_ingredient
from bct_onnx.study.by_pass import by_pass
from bct_onnx.study.by_tensor import by_tensor
from bct_onnx.study.candidates import Candidate, Study, open_study
from bct_onnx.study.comparison import Measuring
from bct_onnx.study.result import Sensitivity
from tests.runtime import tiny
from tests.study.test_by_ingredient import quiet

NEAREST = registry.preset("w4a8-nearest")
UNTIMED = Measuring(rounds=0)


@pytest.fixture(scope="module")
def stages(bundled_model: Path) -> Sensitivity:
    with open_study(bundled_model, "ort-cpu", UNTIMED, quiet) as opened:
        return by_pass(opened, NEAREST)


def test_a_row_per_pass_that_moves_the_outputs(stages: Sensitivity) -> None:
    names = ["exact passes", "quantize-embeddings", "quantize-weights", "quantize-activations", "halve-floats"]
    assert [row.name for row in stages.rows] == names
    coded = 13 + 1  # the one token that the last layer's queries read is a value of its own
    assert [row.places for row in stages.rows][:-1] == [0, 2, 19, coded] and stages.rows[-1].places > 30
    first, *_, last = (row.figures for row in stages.rows)
    assert first is not None and first.sqnr_db > 100
    assert last is not None and 10 < last.sqnr_db < 40
    weights, activations, halved = (round(row.ratio, 2) for row in stages.rows[2:])
    assert 7 < weights == activations < halved


def test_shares_make_up_the_whole(stages: Sensitivity) -> None:
    shares = [row.share for row in stages.rows]
    assert all(share is not None for share in shares)
    assert math.isclose(sum(share for share in shares if share is not None), 1.0)


def test_the_last_stage_is_the_whole_pipeline(stages: Sensitivity, bundled_model: Path) -> None:
    with open_study(bundled_model, "ort-cpu", UNTIMED, quiet) as opened:
        (whole,) = by_ingredient(opened, {"w4a8-nearest": NEAREST}).rows
    assert whole.figures == stages.rows[-1].figures and whole.ratio == stages.rows[-1].ratio


def test_a_pass_that_comes_twice_has_two_rows(bundled_model: Path) -> None:
    text = "quantize-weights{keep=*pooler*|classifier*},quantize-weights{bits=8}"
    with open_study(bundled_model, "portable", UNTIMED, quiet) as opened:
        found = by_pass(opened, registry.parse(f"lift,{text}"))
    assert [row.name for row in found.rows] == ["exact passes", "quantize-weights", "quantize-weights (2)"]


def test_a_pipeline_that_loses_nothing_has_no_stages(bundled_model: Path) -> None:
    with (
        pytest.raises(GateError, match="nothing to measure"),
        open_study(bundled_model, "ort-cpu", UNTIMED, quiet) as opened,
    ):
        by_pass(opened, registry.preset("lift"))


def test_every_tensor_alone_the_worst_first(bundled_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Candidate] = []
    build = Study.build

    def watched(self: Study, name: str, model: ir.Model, passes: Iterable[Pass] = ()) -> Candidate:
        built.append(build(self, name, model, passes))
        return built[-1]

    monkeypatch.setattr(Study, "build", watched)
    some = registry.parse("normalize,fold-constants,quantize-embeddings,quantize-weights{keep=*MatMul*}")
    with open_study(bundled_model, "ort-cpu", UNTIMED, quiet) as opened:
        rows = by_tensor(opened, some).rows
    assert len(rows) == len(built) == 3
    for candidate in built:
        left = [one for one in candidate.inventory.weights if _is_large(one)]
        assert len(left) == 20, f"{candidate.name}: all others stay float"
    sqnr = [row.figures.sqnr_db for row in rows if row.figures is not None]
    assert sqnr == sorted(sqnr) and len(sqnr) == 3
    assert rows[0].name == "bert.embeddings.word_embeddings.weight" and rows[0].weight is not None
    assert rows[0].weight.shape == (6000, 128) and rows[0].weight.sqnr_db == rows[0].weight.weighted_db
    assert all(row.weight is not None and 4.1 < row.weight.bits < 4.5 for row in rows)
    assert all(row.weight is not None and 18 < row.weight.sqnr_db < 26 for row in rows)


def _is_large(one: Stored) -> bool:
    return one.is_float and one.kind in ("matmul", "embedding") and one.count >= 1024


def test_only_the_worst_are_run(bundled_model: Path) -> None:
    text = "normalize,fold-constants,calibrate{products=true},quantize-weights{solver=gptq},halve-floats"
    pipeline = registry.parse(text)
    with open_study(bundled_model, "ort-cpu", UNTIMED, quiet) as opened:
        rows = by_tensor(opened, pipeline, top=2).rows
    assert [row.figures is not None for row in rows] == [True] * 2 + [False] * 17
    found = [row.weight for row in rows if row.weight is not None]
    weighted = [one.weighted_db for one in found]
    assert max(weighted[:2]) <= weighted[2] and weighted[2:] == sorted(weighted[2:])
    assert all(one.weighted_db > one.sqnr_db for one in found), "GPTQ minds what the weights are multiplied by"


def test_weighted_error_is_that_of_the_product(tmp_path: Path) -> None:
    onnx.save(tiny.encoder(vocabulary=200), tmp_path / "m.onnx")
    pipeline = registry.parse("normalize,calibrate{products=true},quantize-weights{minimum=1 block=8}")
    with open_study(tmp_path / "m.onnx", "ort-cpu", UNTIMED, quiet) as opened:
        # Other random tokens than those that calibrate, of the same kind: what is compared on else has two texts a row.
        sampler = Sampler(load(tmp_path / "m.onnx"), session(tmp_path / "m.onnx"))
        opened.comparison.compare_on([sampler.sample(3, 48, seed=seed) for seed in range(500, 508)], "tokens")
        (row,) = by_tensor(opened, pipeline).rows
    assert row.weight is not None and row.figures is not None
    assert row.weight.weighted_db == pytest.approx(row.figures.sqnr_db, abs=1.0)


def test_the_power_of_a_product_from_statistics() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((50, 6)).astype(np.float32), rng.standard_normal((6, 3)).astype(np.float32)
    exact = float(np.square(x @ w).sum())
    assert ChannelStatistics.of(x, products=True).output_power(w).sum() == pytest.approx(exact, rel=1e-4)
    single = np.zeros_like(x)
    single[np.arange(50), np.arange(50) % 6] = x[:, 0]  # one channel at a time: the diagonal is all there is
    diagonal = ChannelStatistics.of(single).output_power(w).sum()
    assert diagonal == pytest.approx(float(np.square(single @ w).sum()), rel=1e-4)


def test_a_pipeline_that_stores_nothing_has_no_tensors(bundled_model: Path) -> None:
    pipeline = registry.parse("normalize,quantize-activations{floats=true}")
    with (
        pytest.raises(GateError, match="no tensor is quantized"),
        open_study(bundled_model, "ort-cpu", UNTIMED, quiet) as opened,
    ):
        by_tensor(opened, pipeline)
