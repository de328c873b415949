import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from typer.testing import CliRunner, Result

from bct_onnx.cli import bench, compare
from bct_onnx.cli import eval as eval_command
from bct_onnx.errors import GateError, TargetError, UsageError
from tests.runtime import tiny
from tests.tasks.tiny import WORDS, tokenizer

Cli = Callable[..., Result]

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
app.command("bench")(bench.bench)
app.command("compare")(compare.compare)
app.command("eval")(eval_command.evaluate)


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
    assert [rows[1][3], rows[2][0]] == ["1x4", "2x8"] and rows[1][-2:] == ["1.00", "1.00"]
    assert "int8 on this CPU: " in output
    assert re.search(r"^MatMul +1 ", output, re.MULTILINE)


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
    assert result["cpu"]["int8"] and result["threads"] == 1 and result["rounds"] == 3


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
    [(("--shape", "8"), "8x128"), (("--shape", "0x4"), "8x128"), (("--against", "magic"), "ort-dynamic or ort-nbits4")],
)
def test_bench_usage(cli: Cli, arguments: tuple[str, ...], message: str) -> None:
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


def sentiment(path: str, *, swapped: bool = False) -> None:
    table = np.zeros((len(WORDS), 2))
    table[WORDS.index("good"), 0 if swapped else 1] = table[WORDS.index("bad"), 1 if swapped else 0] = 1.0
    onnx.save(tiny.classifier(np.eye(2), table), path)


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    path = tokenizer(tmp_path) / "dev.tsv"
    path.write_text("sentence\tlabel\ngood film\t1\nbad film\t0\nthe good film\t1\na good film\t0\n")
    return path


def test_eval_table_and_gate(cli: Cli, sentences: Path) -> None:
    sentiment("right.onnx")
    sentiment("wrong.onnx", swapped=True)
    arguments = ("eval", "right.onnx", "wrong.onnx", "--task", "classification", "--data", str(sentences))
    rows = [line.split() for line in cli(*arguments, "--max-drop", "50").stdout.splitlines()]
    assert rows[0][:5] == ["model", "MB", "accuracy", "f1", "matthews"]
    assert rows[1][2] == "75.000" and rows[2][2] == "25.000" and rows[2][5] == "50.000"
    with pytest.raises(GateError, match=r"its accuracy is 50\.000 worse"):
        cli(*arguments, "--max-drop", "49")


def test_eval_json(cli: Cli, sentences: Path) -> None:
    sentiment("right.onnx")
    arguments = ("--task", "classification", "--data", str(sentences), "--limit", "2", "--json")
    result = json.loads(cli("eval", "right.onnx", *arguments).stdout)
    assert (result["task"], result["metric"], result["sequences"]) == ("classification", "accuracy", 2)
    (row,) = result["models"]
    assert row["metrics"] == {"accuracy": 100.0, "f1": 100.0, "matthews": 100.0} and row["drop"] == 0.0
    assert row["bytes"] == Path("right.onnx").stat().st_size and row["seconds"] > 0


def test_eval_similarity_with_chosen_columns(cli: Cli, tmp_path: Path) -> None:
    data = tokenizer(tmp_path) / "pairs.csv"
    data.write_text("good film,x,good film,5\nfilm,x,a,2\nbad,x,the film,1\n")
    columns = ("--text", "0,2", "--label", "3")
    result = json.loads(cli("eval", "a.onnx", "--task", "similarity", "--data", str(data), *columns, "--json").stdout)
    assert result["metric"] == "spearman" and 0 < result["models"][0]["metrics"]["spearman"] <= 100.001


def test_eval_perplexity_drop_is_a_rise(cli: Cli, tmp_path: Path) -> None:
    onnx.save(tiny.decoder(), "good.onnx")
    model = tiny.decoder()
    for tensor in model.graph.initializer:
        if tensor.name == "weight":
            tensor.raw_data = (10 * onnx.numpy_helper.to_array(tensor)).tobytes()
    onnx.save(model, "sure.onnx")
    np.savez(tmp_path / "ids.npz", tokens=np.arange(12) % 7, lengths=np.array([5, 7]))
    arguments = ("eval", "good.onnx", "sure.onnx", "--task", "perplexity", "--data", "ids.npz")
    good, sure = json.loads(cli(*arguments, "--json").stdout)["models"]
    rise = sure["metrics"]["perplexity"] - good["metrics"]["perplexity"]
    assert rise > 1 and sure["drop"] == pytest.approx(rise)
    with pytest.raises(GateError, match="perplexity"):
        cli(*arguments, "--max-drop", "1")


def test_eval_nan_fails_the_gate(cli: Cli, tmp_path: Path) -> None:
    model = tiny.decoder()
    for tensor in model.graph.initializer:
        tensor.raw_data = np.full(len(tensor.raw_data) // 4, np.nan, np.float32).tobytes()
    onnx.save(model, "nan.onnx")
    onnx.save(tiny.decoder(), "good.onnx")
    np.savez(tmp_path / "ids.npz", tokens=np.arange(5), lengths=np.array([5]))
    arguments = ("eval", "good.onnx", "nan.onnx", "--task", "perplexity", "--data", "ids.npz")
    assert "nan" in cli(*arguments).stdout
    assert json.loads(cli(*arguments, "--json").stdout)["models"][1]["metrics"] == {"perplexity": None}
    with pytest.raises(GateError, match="not a number"):
        cli(*arguments, "--max-drop", "1000")


def test_eval_unknown_task(cli: Cli, sentences: Path) -> None:
    with pytest.raises(UsageError, match="classification, similarity, perplexity"):
        cli("eval", "a.onnx", "--task", "translation", "--data", str(sentences))
