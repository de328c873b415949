"""The smallest model that is good enough, by a score that falls with the size."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import pytest

from bct_onnx.errors import GateError
from bct_onnx.study.allocation import search
from bct_onnx.study.allocation.search import Floor, Try, smallest
from bct_onnx.study.candidates import open_study
from bct_onnx.study.comparison import Figures, Measuring
from bct_onnx.tasks.perplexity import Perplexity
from tests.study.allocation import small

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


@functools.cache
def search_for(folder: Path, max_drop: float) -> list[Try]:
    measuring = Measuring(Perplexity.load(small.own_text(folder), None), "perplexity", rounds=0)
    source = small.write(folder)
    with open_study(source, "portable", measuring, small.quiet, folder / "cache") as study:
        return smallest(study, small.pipeline(), Floor(drop=max_drop))


def near(folder: Path, sqnr_db: float) -> list[Try]:
    """A search by the distance of the outputs, on calibration data and without a task."""
    text = small.PIPELINE.replace("samples", f'data="{small.tokens(folder)}" samples')
    with open_study(small.write(folder), "portable", Measuring(rounds=0), small.quiet, folder / "cache") as study:
        return smallest(study, small.pipeline(text), Floor(sqnr_db=sqnr_db))


def test_the_smallest_within_a_distance_needs_no_labels(folder: Path) -> None:
    tries = near(folder, 16.0)
    bad = [each for each in tries if each.figures.sqnr_db < 16.0]
    assert bad and tries[-1].figures.sqnr_db >= 16.0 and tries[-1].ratio < min(each.ratio for each in bad)
    assert tries[-1].ratio > 0.93 * min(each.ratio for each in bad) and not tries[-1].figures.metrics


def test_no_size_is_near_enough(folder: Path) -> None:
    with pytest.raises(GateError, match=r"no size is 90 dB from the model[^$]*the largest"):
        near(folder, 90.0)


def test_the_last_is_the_smallest_that_is_good_enough(folder: Path) -> None:
    tries = search_for(folder, 8.0)
    good = [one for one in tries if one.drop <= 8.0]
    bad = [one for one in tries if one.drop > 8.0]
    assert len(tries) == search.TRIES and good and bad
    assert tries[-1] is max(good, key=lambda one: one.ratio) and tries[-1].ratio < min(one.ratio for one in bad)
    assert tries[-1].allocation.ratio == pytest.approx(tries[-1].ratio)
    assert tries[-1].ratio > 0.93 * min(one.ratio for one in bad)
    assert set(tries[-1].figures.metrics) == {"perplexity"}


def test_anything_goes(folder: Path) -> None:
    tries = search_for(folder, 1e6)
    least, _ = tries[-1].allocation.table.reachable
    assert tries[-1].ratio > 0.9 * tries[-1].allocation.table.ratio(least)


def test_nothing_is_good_enough(folder: Path) -> None:
    with pytest.raises(GateError, match=r"no size loses at most -50 percent[^$]*the largest"):
        search_for(folder, -50.0)


def test_a_score_that_is_no_number_is_lost(folder: Path) -> None:
    tried = search_for(folder, 1e6)[-1]
    worst = dataclasses.replace(tried, figures=Figures(10.0, drop=float("nan")))
    assert worst.drop == float("inf")
