"""``bct-onnx rewrite`` to a size: a recipe, a table, JSON, and what is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bct_onnx import recipe
from bct_onnx.graph.inventory import inventory
from bct_onnx.graph.load import load
from tests.cli.conftest import Invoke
from tests.study.allocation import small

PLAN = ("--dry-run", "--plan")
PASSES = ("--passes", small.PIPELINE, "--target", "portable")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def invoke(invoke: Invoke, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """``invoke(command, *arguments, code=0)`` on the small model."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("LOCALAPPDATA", str(cache))
    small.write(tmp_path)
    return lambda command, *arguments, code=0: invoke(command, "small.onnx", *arguments, code=code)


def test_a_plan_is_a_recipe_for_rewrite(invoke: Invoke, tmp_path: Path) -> None:
    table = invoke("rewrite", *PASSES, "--target-ratio", 9, *PLAN, "plan.toml")
    assert "  loud" in table and "9.0" in table and "wrote      plan.toml" in table
    invoke("rewrite", "--recipe", "plan.toml", "-o", "a.onnx", "--no-check")
    invoke("rewrite", *PASSES, "--target-ratio", 9, "--plan", "same.toml", "-o", "b.onnx", "--no-check", "-q")
    assert Path("plan.toml").read_text() == Path("same.toml").read_text()
    fixed, sized = (load(Path(name)).graph.initializers for name in ("a.onnx", "b.onnx"))
    for name, value in fixed.items():
        tensor, other = value.const_value, sized[name].const_value
        assert tensor is not None and other is not None and tensor.tobytes() == other.tobytes()
    assert 9 <= inventory(load(tmp_path / "a.onnx")).ratio_parameters < 9.5


def test_json(invoke: Invoke) -> None:
    found = json.loads(invoke("rewrite", *PLAN, "-", *PASSES, "--target-bits", 3.5, "--json"))
    assert found["bits_per_weight"] <= 3.5 and found["tensors"][0]["name"] == "table"
    assert found["noise"] == pytest.approx(sum(one["noise"] for one in found["tensors"]))
    assert found["bits"] == found["fixed_bits"] + sum(one["bits"] for one in found["tensors"])
    least, most = found["reachable_ratios"]
    assert least < found["ratio"] < most and "tries" not in found


@pytest.mark.whole
def test_the_smallest_within_a_drop(invoke: Invoke, tmp_path: Path) -> None:
    data = small.own_text(tmp_path)
    wish = ("--max-drop", 20, "--task", "perplexity", "--data", data)
    table = invoke("rewrite", *PASSES, *wish, *PLAN, "plan.toml")
    assert table.count("  tried") == 6 and "perplexity" in table
    ratio = json.loads(invoke("rewrite", *PLAN, "-", *PASSES, *wish, "--json"))["tries"][-1]["ratio"]
    invoke("rewrite", *PASSES, *wish, "-o", "small.bct.onnx", "--no-check")
    assert inventory(load(Path("small.bct.onnx"))).ratio_parameters == pytest.approx(ratio)


@pytest.mark.whole
def test_the_smallest_within_a_distance(invoke: Invoke, tmp_path: Path) -> None:
    wish = ("--target-sqnr", 16, "--calibrate", small.tokens(tmp_path))
    table = invoke("rewrite", *PASSES, *wish, *PLAN, "plan.toml")
    assert table.count("  tried") == 6 and " dB" in table
    assert json.loads(invoke("rewrite", *PLAN, "-", *PASSES, *wish, "--json"))["tries"][-1]["sqnr_db"] >= 16


def test_nothing_is_kept_without_a_cache(invoke: Invoke, tmp_path: Path) -> None:
    invoke("rewrite", *PLAN, "-", *PASSES, "--target-ratio", 9, "--json", "--cache", "kept")
    assert len(list(Path("kept").iterdir())) == 1
    invoke("rewrite", *PLAN, "-", "--passes", "quantize-weights{bits=3}", "--target-ratio", 1.4, "--json", "--no-cache")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["kept", "small.onnx"]


def test_an_existing_plan_is_kept(invoke: Invoke) -> None:
    Path("plan.toml").write_text("mine")
    assert "exists already" in invoke("rewrite", *PASSES, "--target-ratio", 9, *PLAN, "plan.toml", code=2)
    assert Path("plan.toml").read_text() == "mine"
    invoke("rewrite", *PASSES, "--target-ratio", 9, *PLAN, "plan.toml", "--force", "-q")
    assert recipe.read(Path("plan.toml"))[1] == "portable"


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("rewrite", (*PLAN, "-"), "a plan needs a goal"),
        (
            "rewrite",
            (*PLAN, "-", "--target-ratio", 9, "--target-bits", 3),
            "--target-ratio and --target-bits cannot go together",
        ),
        ("rewrite", (*PLAN, "-", "--max-drop", 1), "--max-drop needs --task"),
        ("rewrite", (*PLAN, "-", "--max-drop", 1, "--task", "perplexity"), "--max-drop needs --data"),
        (
            "rewrite",
            (*PLAN, "-", "--target-ratio", 9, "--task", "perplexity"),
            "--task is of no use without --max-drop",
        ),
        ("rewrite", (*PLAN, "-", "--target-ratio", 9, "--cache", "x", "--no-cache"), "cannot go together"),
        ("rewrite", (*PLAN, "-", "--target-ratio", 9, "-q"), "no output was given"),
        ("rewrite", ("--target-ratio", 9, *PLAN, "plan.txt"), "is no name of a plan"),
        ("rewrite", ("--target-ratio", 9, *PLAN, "no/plan.toml"), "the folder of the plan does not exist"),
        ("rewrite", (*PLAN, "-", *PASSES, "--target-ratio", 40), "40 cannot be reached"),
        ("rewrite", ("-o", "x.onnx", "--plan", "p.toml"), "a plan needs a goal"),
        ("rewrite", ("--target-ratio", 9, "-o", "small.onnx"), "small.onnx"),
        ("rewrite", ("--max-drop", 1, "-o", "x.onnx"), "--max-drop needs --task"),
    ],
)
def test_what_cannot_be_is_refused(invoke: Invoke, command: str, arguments: tuple[object, ...], message: str) -> None:
    assert message in invoke(command, *arguments, code=5 if message.startswith("the folder") else 2)
    assert [file.name for file in Path().iterdir()] == ["small.onnx"]
