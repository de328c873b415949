"""Rows of a frontier, and the pipelines they are built by."""

from __future__ import annotations

from typing import Any

import pytest

from bct_onnx import registry
from bct_onnx.errors import UsageError
from bct_onnx.pipeline import Pipeline
from bct_onnx.recipe import with_data
from bct_onnx.study.peers import TOOLS
from bct_onnx.study.tradeoff import GROUPS, WITHOUT, Selection, jobs
from bct_onnx.study.tradeoff.ablations import Change, combined, shift, uniform

TEXT = (
    "normalize,calibrate{data=a.tsv tokenizer=dir column=text samples=16 products=true},smooth,balance,"
    'quantize-embeddings{bits=3},quantize-weights{solver=refined formats="3/64:layer.0.*"},quantize-activations'
)


@pytest.fixture
def ours() -> Pipeline:
    return registry.parse(TEXT)


def options(pipeline: Pipeline, name: str) -> dict[str, object]:
    """Options of one pass that are not the defaults."""
    return dict(next(one for one in pipeline if one.name == name).options(defaults=False))


def test_each_group_has_its_rows(ours: Pipeline) -> None:
    made = jobs(ours, Selection(ratios=(4.0, 10.0)))
    assert list(dict.fromkeys(job.group for job in made)) == list(GROUPS)
    assert len({job.name for job in made}) == len(made)
    assert [job.name for job in made[:5]] == ["fp32", "ours 4x", "ours 10x", "nearest 8 bit", "nearest 3 bit"]
    assert [job.ratio for job in made[:5]] == [None, 4.0, 10.0, None, None]
    assert {job.tool for job in made if job.group == "others"} == set(TOOLS)


def test_only_some_groups_or_tools(ours: Pipeline) -> None:
    made = jobs(ours, Selection(only=("shift", "ort-hqq2")))
    assert [job.name for job in made] == [
        *(f"shift {bits} bit, {search}" for bits in (4, 3, 2) for search in ("mse", "max")),
        "ort-hqq2",
    ]
    assert [job.setting for job in jobs(ours, Selection(only=("ort-dynamic",)))] == [
        f"ort-dynamic: {setting}" for setting in TOOLS["ort-dynamic"].settings
    ]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"only": ("our",)}, "did you mean 'ours'"),
        ({"only": ("xyz",)}, "there are: fp32, ours"),
        ({"without": ("smoth",)}, "did you mean 'smooth'"),
        ({"ratios": (1.0,)}, "between 1 and 32"),
        ({"ratios": (8.0, float("nan"))}, "between 1 and 32"),
    ],
)
def test_unknown_rows_are_refused(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Selection(**wanted)
    assert message in str(caught.value)


def test_plain_rounding_has_the_bits_nearest_to_each_ratio_once(ours: Pipeline) -> None:
    made = jobs(ours, Selection(ratios=(4.0, 8.0, 9.0, 12.0, 14.4), only=("nearest",)))
    assert [job.name for job in made] == [f"nearest {bits} bit" for bits in (8, 4, 3, 2)]
    two = registry.parse(made[-1].passes)
    assert options(two, "quantize-weights") == {"bits": 2} and options(two, "quantize-embeddings") == {"bits": 2}
    assert options(two, "calibrate") == options(ours, "calibrate")


def test_blocks_of_the_paper(ours: Pipeline) -> None:
    made = combined(ours, shift(3, "max"))
    weights = {"bits": 3, "block": (64, 64), "scale": "shift", "search": "max"}
    assert options(made, "quantize-weights") == weights
    assert options(made, "quantize-embeddings") == {"bits": 3, "block": 64, "search": "max"}
    assert options(made, "quantize-activations") == {}, "its scale is another matter"


@pytest.mark.parametrize("name", WITHOUT)
def test_what_is_left_out_changes_rows_and_nothing_else(ours: Pipeline, name: str) -> None:
    (plain,) = jobs(ours, Selection(ratios=(8.0,), only=("ours",)))
    (job,) = jobs(ours, Selection(ratios=(8.0,), only=("ort-nbits4",), without=(name,)))[1:]
    assert job.name == f"ours 8x without {name}" and job.group == f"without {name}"
    changed = {field for field in ("passes", "ratio", "row_widths") if getattr(job, field) != getattr(plain, field)}
    assert changed == {"allocation": {"passes", "ratio"}, "rows": {"row_widths"}}.get(name, {"passes"})
    assert str(registry.parse(job.passes)) == job.passes


def test_what_each_leaves_out(ours: Pipeline) -> None:
    left = {name: change.apply(ours) for name, change in WITHOUT.items()}
    assert options(left["text"], "calibrate") == {"samples": 16, "products": True}
    assert options(left["gptq"], "quantize-weights") == {"formats": ("3/64:layer.0.*",)}
    assert options(left["refine"], "quantize-weights")["solver"] == "gptq"
    assert options(left["search"], "quantize-embeddings") == {"bits": 3, "search": "max"}
    assert [name for name in ("smooth", "balance") if any(one.name == name for one in left[name])] == []
    assert options(uniform(2).apply(ours), "quantize-weights") == {"bits": 2, "solver": "refined"}


def test_what_is_not_there_cannot_be_left_out() -> None:
    plain = registry.parse("quantize-embeddings{search=max},quantize-weights{search=max}")
    assert [name for name, change in WITHOUT.items() if change.has_place(plain)] == ["allocation", "rows"]
    with pytest.raises(UsageError, match="there is no 'text' to leave out"):
        jobs(plain, Selection(without=("text",)))


def test_a_change_that_asks_for_a_value_leaves_others_alone(ours: Pipeline) -> None:
    gptq = registry.parse("quantize-weights{solver=gptq}")
    change = Change(options={"*": {"solver": "nearest"}}, only={"solver": "refined"})
    assert change.apply(gptq) == gptq and change.apply(ours) != ours


def test_names_with_blanks_survive(ours: Pipeline) -> None:
    spaced = with_data(ours, data="my data.tsv")
    (job,) = jobs(spaced, Selection(ratios=(8.0,), only=("nearest",)))
    assert options(registry.parse(job.passes), "calibrate")["data"] == "my data.tsv"
