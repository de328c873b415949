"""``bct-onnx rewrite``: what it prints, and how gates end a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bct_onnx import registry
from tests.cli.conftest import Invoke, line

QUICK = ("--preset", "w4")
"""For what does not depend on the preset: nothing is calibrated, and weights are rounded one by one."""
FIGURES = {"parameters", "bits_per_weight", "ratio_parameters", "ratio_file", "bytes_by_kind", "ops"}


def test_the_table(invoke: Invoke, bundled_model: Path) -> None:
    printed = invoke("rewrite", bundled_model, "-o", "small.onnx", "--keep-passes", "kept")
    for name in [one.name for one in (*registry.preset("bct-plus"), *registry.lowering("ort-cpu"))]:
        assert line(printed, name)
    size, written = line(printed, "size"), Path("small.onnx").stat().st_size
    assert f"{bundled_model.stat().st_size / 1e6:.1f} MB" in size and f"-> {written / 1e6:.1f} MB" in size
    assert "bits/weight" in size and "transfer" in size and "x (parameters" in size and "predicted" not in size
    assert "MatMul 24->0" in line(printed, "ops") and "MatMulIntegerToFloat 0->19" in line(printed, "ops")
    outputs = line(printed, "outputs")
    assert all(word in outputs for word in ("SQNR", "cosine", "top-1 agreement", "samples"))
    assert "random" in outputs or "English text of ours" in outputs  # without and with what reads the tokenizer
    assert "ms" in line(printed, "latency") and "load" in line(printed, "latency")
    assert "parameters of a normalization" in printed and "a bias" in printed
    assert line(printed, "wrote").endswith("small.onnx") and "netron" in line(printed, "passes").lower()
    assert "repeat" in printed


def test_the_line_that_repeats_the_run_does(invoke: Invoke, bundled_model: Path) -> None:
    passes = "calibrate{samples=2},quantize-embeddings{keep=*position*},quantize-weights{bits=8 reduce-range=false}"
    run = ("--passes", passes, "--target", "portable", "--no-check")
    first = invoke("rewrite", bundled_model, "-o", "a.onnx", *run)
    text = line(first, "repeat").split("'")[1]
    assert "--target portable" in line(first, "repeat")
    invoke("rewrite", bundled_model, "-o", "b.onnx", "--passes", text, "--target", "portable", "--no-check")
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


def test_json(invoke: Invoke, bundled_model: Path) -> None:
    printed = invoke("rewrite", bundled_model, "-o", "small.onnx", "--json", "--preset", "w4a8-nearest")
    figures: dict[str, Any] = json.loads(printed)
    assert set(figures) >= {*FIGURES, "float_weights_left"}
    assert (
        figures["bytes_out"] == Path("small.onnx").stat().st_size
        and figures["bytes_in"] == bundled_model.stat().st_size
    )
    assert figures["ratio_file"] == pytest.approx(figures["bytes_in"] / figures["bytes_out"])
    assert figures["ratio_parameters"] == pytest.approx(32 / figures["bits_per_weight"])
    stored = sum(nbytes for kind, nbytes in figures["bytes_by_kind"].items() if kind != "index")
    assert figures["bits_per_weight"] == pytest.approx(8 * stored / figures["parameters"])
    assert all(set(left) == {"name", "bytes", "reason"} and left["reason"] for left in figures["float_weights_left"])
    assert figures["parity"]["samples"] == 3 and figures["files"] == [str(Path("small.onnx").absolute())]
    assert [step["pass"].split("{")[0] for step in figures["steps"]][-1] == "clean-up"
    again = json.loads(invoke("inspect", "small.onnx", "--json"))
    for key in ("parameters", "bits_per_weight", "ratio_parameters", "bytes_by_kind", "ops"):
        assert again[key] == figures[key], key


def test_a_dry_run(invoke: Invoke, bundled_model: Path) -> None:
    printed = invoke("rewrite", bundled_model, "--dry-run", *QUICK)
    assert "predicted" in line(printed, "size") and "wrote" not in printed
    assert list(Path.cwd().iterdir()) == []


def test_quiet_prints_nothing(invoke: Invoke, bundled_model: Path) -> None:
    assert invoke("rewrite", bundled_model, "-o", "small.onnx", "-q", "--verify-each", *QUICK) == ""
    assert Path("small.onnx").is_file()


def test_verbose_lists_everything(invoke: Invoke, bundled_model: Path) -> None:
    printed = invoke("rewrite", bundled_model, "-o", "small.onnx", "-v", "--no-check", *QUICK)
    assert "quantize-weights: " in printed and "quantize-weights declined " in printed and "bits per weight" in printed
    assert "not compared: switched off" in line(printed, "outputs")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--min-ratio", "20"], "parameters shrank 7."),
        (["--min-sqnr", "80"], "below --min-sqnr 80"),
    ],
)
def test_gates(arguments: list[str], said: str, invoke: Invoke, bundled_model: Path) -> None:
    assert said in invoke("rewrite", bundled_model, "-o", "small.onnx", "-q", *QUICK, *arguments, code=1)


def test_gates_that_are_met(invoke: Invoke, bundled_model: Path) -> None:
    invoke("rewrite", bundled_model, "-o", "small.onnx", "-q", *QUICK, "--min-ratio", "7", "--min-sqnr", "15")


def test_a_gate_without_a_figure(invoke: Invoke, bundled_model: Path) -> None:
    run = ("rewrite", bundled_model, "-o", "small.onnx", "-q", *QUICK, "--min-sqnr", "15", "--no-check")
    said = invoke(*run, code=2)
    assert "--min-sqnr needs outputs to compare" in said and "--check" in said


def test_a_recipe(invoke: Invoke, bundled_model: Path) -> None:
    Path("r.toml").write_text(
        'preset = "w4a8-nearest"\ntarget = "portable"\n[options.quantize-weights]\nbits = 8\nkeep = ["*pooler*"]\n',
        encoding="utf-8",
    )
    figures = json.loads(invoke("rewrite", bundled_model, "--recipe", "r.toml", "--dry-run", "--json", "--no-check"))
    (text,) = (step["pass"] for step in figures["steps"] if step["pass"].startswith("quantize-weights"))
    assert figures["target"] == "portable" and "bits=8" in text and "keep=*pooler*" in text
    figures = json.loads(
        invoke(
            "rewrite", bundled_model, "--recipe", "r.toml", "--target", "ort-cpu", "--dry-run", "--json", "--no-check"
        )
    )
    assert figures["target"] == "ort-cpu"


def test_force_replaces(invoke: Invoke, bundled_model: Path) -> None:
    Path("small.onnx").write_bytes(b"old")
    assert "--force" in invoke("rewrite", bundled_model, "-o", "small.onnx", "-q", "--no-check", code=2)
    invoke("rewrite", bundled_model, "-o", "small.onnx", "-q", "--no-check", "--force", *QUICK)
    assert Path("small.onnx").stat().st_size > 100_000


def test_nothing_is_logged_by_libraries(run_cli: Callable[..., Any], bundled_model: Path) -> None:
    done = run_cli("rewrite", bundled_model, "-o", "small.onnx")
    assert done.returncode == 0 and done.stderr == ""
