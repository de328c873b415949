import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from typer.testing import CliRunner, Result

from bct_onnx.cli import bench, compare
from bct_onnx.errors import GateError, TargetError, UsageError
from tests.runtime import tiny
from tests.study.allocation import small
from tests.tasks.tiny import WORDS

Cli = Callable[..., Result]

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
app.command("bench")(bench.bench)
app.command("compare")(compare.compare)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Two encoders `a.onnx` and `b.onnx` in the current folder, and a function that runs a command."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        onnx.save(tiny.encoder(seed, len(WORDS)), f"{name}.onnx")

    def invoke(*arguments: str) -> Result:
        result = CliRunner().invoke(app, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


def test_bench_table(cli: Cli) -> None:
    output = cli("bench", "a.onnx", "b.onnx", "--shape", "1x4", "--shape", "2x8", "--rounds", "2", "--profile").stdout
    rows = [line.split() for line in output.splitlines()]
    assert rows[0][0] == "model" and rows[1][0] == "a.onnx" and rows[3][0] == "b.onnx"
    assert [rows[1][3], rows[2][0]] == ["1x4", "2x8"]
    assert rows[1][-4:] == ["1.00", "1.00", "1.00", "1.00-1.00"]
    assert "int8 on this CPU: " in output
    assert re.search(r"^MatMul +1 ", output, re.MULTILINE) and "no 8-bit products with weights" in output


def test_bench_nodes_and_memory(cli: Cli) -> None:
    arguments = ("bench", "a.onnx", "b.onnx", "--shape", "2x4", "--rounds", "1", "--nodes", "--memory")
    for row in json.loads(cli(*arguments, "--json").stdout)["models"]:
        assert row["nodes"]["MatMul"] == 1 and "profile" not in row
        memory = row["memory"]
        assert 0 <= memory["loaded"] <= memory["peak_load"] and memory["peak_run"] > 0
    output = cli(*arguments).stdout
    assert re.search(r"^MatMul +1 +1$", output, re.MULTILINE) and "peak of loading" in output


def test_bench_decoding(cli: Cli) -> None:
    onnx.save(tiny.decoder(), "decoder.onnx")
    arguments = ("bench", "decoder.onnx", "--seq", "5", "--tokens", "3", "--rounds", "2")
    (row,) = json.loads(cli(*arguments, "--json").stdout)["models"]
    (found,) = row["decoding"]
    assert (found["batch"], found["prompt"], found["tokens"]) == (1, 5, 3) and row["latency"] == []
    assert found["first"]["min_ms"] > 0 and found["token"]["times_faster_rounds"]["median"] == 1.0
    output = cli(*arguments).stdout
    assert "first, 1x5" in output and "each of 3" in output
    with pytest.raises(UsageError, match="no key-value cache"):
        cli("bench", "a.onnx", "--tokens", "3")


def test_bench_against_an_optimizer(cli: Cli, bundled_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # makes the import fail as if it were not installed
    arguments = ("bench", str(bundled_model), "--seq", "4", "--batch", "1", "--rounds", "1", "--nodes")
    _, row = json.loads(cli(*arguments, "--against", "ort-optimizer", "--json").stdout)["models"]
    assert row["model"].startswith("ort-optimizer (bert") and row["nodes"]["Attention"] == 3


def test_bench_by_pass(cli: Cli, tmp_path: Path) -> None:
    source = str(small.write(tmp_path))
    passes = "normalize,quantize-weights{solver=nearest},quantize-activations"
    arguments = ("bench", source, "--by-pass", "--passes", passes)
    result = json.loads(cli(*arguments, "--batch", "1", "--seq", "8", "--rounds", "1", "--json").stdout)
    stages = {stage["after"]: stage for stage in result["stages"]}
    assert list(stages)[:2] == ["input", "quantize-activations"] and list(stages)[-1] == "clean-up"
    assert stages["input"]["distance"] is None and 0 < stages["clean-up"]["share"] < 1
    assert stages["clean-up"]["distance"] == pytest.approx(1 / stages["clean-up"]["share"])
    assert not list(tmp_path.glob("*budget*"))
    output = cli(*arguments, "--batch", "1", "--seq", "8", "--rounds", "1").stdout
    assert re.search(r"^8-bit products +0.00", output, re.MULTILINE) and "MatMulIntegerToFloat" in output


def test_bench_json(cli: Cli) -> None:
    result = json.loads(
        cli("bench", "a.onnx", "b.onnx", "--batch", "2", "--seq", "4", "--rounds", "3", "--json").stdout
    )
    first, second = result["models"]
    assert first["model"] == "a.onnx" and first["bytes"] == Path("a.onnx").stat().st_size and first["load_s"] > 0
    (time,) = second["latency"]
    assert (time["batch"], time["sequence"]) == (2, 4) and 0 < time["min_ms"] <= time["median_ms"]
    (baseline,) = first["latency"]
    assert time["times_faster_min"] == pytest.approx(baseline["min_ms"] / time["min_ms"])
    assert result["cpu"]["int8"] and result["threads"] == [1] and result["rounds"] == 3


def test_bench_against_other_tools(cli: Cli) -> None:
    arguments = (
        "bench",
        "a.onnx",
        "--seq",
        "4",
        "--against",
        "ort-dynamic",
        "--against",
        "ort-nbits4",
        "--rounds",
        "1",
    )
    names = [row["model"] for row in json.loads(cli(*arguments, "--json").stdout)["models"]]
    assert len(names) == 3 and names[1].startswith("ort-dynamic (int8 per ")
    assert "ort-nbits4" in names[2] and "ort-nbits4" in cli(*arguments).stdout


def test_bench_shows_a_tool_that_fails(cli: Cli) -> None:
    model = tiny.encoder()
    del model.graph.node[-1]
    model.graph.node[-1].output[0] = "last_hidden_state"
    onnx.save(model, "no_matmul.onnx")
    output = cli("bench", "no_matmul.onnx", "--seq", "4", "--rounds", "1", "--against", "ort-nbits4").stdout
    assert re.search(r"^ort-nbits4 +failed", output, re.MULTILINE) and "ort-nbits4 failed: " in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--provider", "tpu"), "unknown provider 'tpu'"),
        (("--provider", "cuda"), "has no CUDAExecutionProvider"),
        (("--shape", "8"), "8x128"),
        (("--shape", "0x4"), "8x128"),
        (("--against", "magic"), "ort-dynamic or ort-nbits4"),
    ],
)
def test_bench_usage(cli: Cli, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UsageError, match=message):
        cli("bench", "a.onnx", *arguments)


def test_bench_model_that_does_not_run(cli: Cli) -> None:
    onnx.save(tiny.with_fixed(tiny.encoder(), sequence=3), "fixed.onnx")
    with pytest.raises(TargetError, match="cannot run"):
        cli("bench", "a.onnx", "fixed.onnx", "--seq", "4")


def test_compare_with_itself(cli: Cli) -> None:
    output = cli("compare", "a.onnx", "a.onnx", "--min-sqnr", "100").stdout
    assert "1.00x" in output and "the same operators" in output and "8 samples: random inputs 2x32, seed 0" in output
    assert re.search(r"^all +0 +0 +exact +1\.000000 +100\.00 +yes", output, re.MULTILINE)


def test_compare_json_and_operators(cli: Cli) -> None:
    model = onnx.load("a.onnx")
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Neg", ["before"], ["last_hidden_state"]))
    onnx.save(model, "negated.onnx")
    result = json.loads(cli("compare", "a.onnx", "negated.onnx", "--samples", "2", "--seq", "4", "--json").stdout)
    assert result["operators"] == {"Neg": [0, 1]}
    parity = result["parity"]
    assert parity["cosine"] == pytest.approx(-1.0) and parity["samples"] == 2
    assert parity["sqnr_db"] == pytest.approx(-6.0206) and list(parity["outputs"]) == ["last_hidden_state"]


def test_compare_gate(cli: Cli) -> None:
    assert cli("compare", "a.onnx", "b.onnx").exit_code == 0
    with pytest.raises(GateError, match="--min-sqnr 20"):
        cli("compare", "a.onnx", "b.onnx", "--min-sqnr", "20")


def test_compare_gate_refuses_nan(cli: Cli) -> None:
    model = onnx.load("a.onnx")
    broken = np.full((8, 8), np.nan, np.float32)
    next(t for t in model.graph.initializer if t.name == "weight").raw_data = broken.tobytes()
    onnx.save(model, "nan.onnx")
    assert re.search(r"^all .*NO", cli("compare", "a.onnx", "nan.onnx").stdout, re.MULTILINE)
    with pytest.raises(GateError, match="not finite"):
        cli("compare", "a.onnx", "nan.onnx", "--min-sqnr", "-100")


def test_compare_with_inputs_from_a_file(cli: Cli) -> None:
    names = ("input_ids", "attention_mask", "token_type_ids")
    np.savez("inputs.npz", **{name: np.ones((1, 3), np.int64) for name in names})  # type: ignore[arg-type]  # numpy's stub takes allow_pickle for every keyword
    result = json.loads(cli("compare", "a.onnx", "b.onnx", "--inputs", "inputs.npz", "--json").stdout)
    assert (result["parity"]["samples"], result["parity"]["source"]) == (1, "inputs.npz")
