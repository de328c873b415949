import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from bct_onnx.cli import compare, main
from bct_onnx.cli.tables import scores
from bct_onnx.errors import GateError, UsageError
from bct_onnx.study.peers import TOOLS, make
from tests.runtime import tiny
from tests.tasks.tiny import WORDS, cumulative, tokenizer

Cli = Callable[..., Result]

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
app.command("compare")(compare.compare)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A function that runs the command in an empty current folder."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str) -> Result:
        result = CliRunner().invoke(app, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


def sentiment(path: str, *, swapped: bool = False, scale: float = 1.0) -> None:
    table = np.zeros((len(WORDS), 2))
    table[WORDS.index("good"), 0 if swapped else 1] = table[WORDS.index("bad"), 1 if swapped else 0] = scale
    onnx.save(tiny.classifier(np.eye(2), table), path)


@pytest.fixture
def sentences(tmp_path: Path) -> str:
    path = tokenizer(tmp_path) / "dev.tsv"
    path.write_text("sentence\tlabel\ngood film\t1\nbad film\t0\nthe good film\t1\na good film\t0\n")
    return str(path)


def cells(output: str, name: str) -> list[str]:
    """The row of that model."""
    return next(line.split()[1:] for line in output.splitlines() if line.startswith(f"{name} "))


def test_table(cli: Cli, sentences: str) -> None:
    sentiment("right.onnx")
    sentiment("wrong.onnx", swapped=True)
    sentiment("twice.onnx", scale=2.0)
    output = cli(
        "right.onnx", "wrong.onnx", "right.onnx", "twice.onnx", "--task", "classification", "--data", sentences
    ).stdout
    right, wrong, twice = (cells(output, name) for name in ("right", "wrong", "twice"))
    assert right[1:6] == ["1.00", "32.00", "75.00", "80.00", "57.74"] and len(right) == 9
    assert wrong[3] == "25.00" and wrong[6:10] == ["50.00", "-3.0", "0.46", "0.00"]
    assert twice[6:10] == ["0.00", "0.0", "0.083", "100.00"]
    assert "4 sequences of" in output and "worse by: points of accuracy" in output


@pytest.mark.parametrize("names", [["a", "b"], ["a-model-of-quite-some-length", "the-same-model.w4a8-tensor-refined"]])
def test_table_fits_100_columns(cli: Cli, sentences: str, names: list[str]) -> None:
    for name in names:
        sentiment(f"{name}.onnx", swapped=name == names[1])
    arguments = ("--task", "classification", "--data", sentences, "--json")
    result = json.loads(cli(*(f"{name}.onnx" for name in names), *arguments).stdout)
    for row in result["models"]:
        row |= {"bytes": 123_450_000, "batch_ms": 12345.6, "times_faster": 0.25}
    printed = io.StringIO()
    Console(width=100, file=printed).print(scores.table(result))
    lines = printed.getvalue().splitlines()
    assert all(len(line.rstrip()) <= 100 and "…" not in line for line in lines)
    assert lines[1].split()[-1] == "faster" and "12345.6" in lines[2] and "123.45" in lines[2]


def test_max_drop(cli: Cli, sentences: str) -> None:
    sentiment("right.onnx")
    sentiment("wrong.onnx", swapped=True)
    arguments = ("right.onnx", "wrong.onnx", "--task", "classification", "--data", sentences)
    assert cli(*arguments, "--max-drop", "50").exit_code == 0
    with pytest.raises(GateError, match=r"wrong.onnx: its accuracy is 50\.000 points worse"):
        cli(*arguments, "--max-drop", "49")
    with pytest.raises(GateError, match=r"its matthews is 115\.470 points worse"):
        cli(*arguments, "--max-drop", "100", "--metric", "matthews")
    with pytest.raises(UsageError, match="accuracy, f1, matthews"):
        cli(*arguments, "--metric", "bleu")


@pytest.mark.usefixtures("cli")
def test_the_table_is_printed_before_a_gate_fails(sentences: str, capsys: pytest.CaptureFixture[str]) -> None:
    sentiment("right.onnx")
    sentiment("wrong.onnx", swapped=True)
    arguments = ("--task", "classification", "--data", sentences, "--max-drop", "1")
    assert main(["compare", "right.onnx", "wrong.onnx", *arguments]) == 1
    printed = capsys.readouterr()
    assert cells(printed.out, "wrong")[3] == "25.00" and "a gate is missed" in printed.err


def test_json(cli: Cli, sentences: str) -> None:
    sentiment("right.onnx")
    arguments = ("--task", "classification", "--data", sentences, "--limit", "2", "--json")
    result = json.loads(cli("right.onnx", *arguments).stdout)
    assert (result["task"], result["metric"], result["drop_unit"]) == ("classification", "accuracy", "points")
    (row,) = result["models"]
    assert row["metrics"] == {"accuracy": 100.0, "f1": 100.0, "matthews": 100.0} and row["drop"] == 0.0
    assert row["bytes"] == Path("right.onnx").stat().st_size and min(row["seconds"], row["load_s"]) > 0
    assert (row["sqnr_db"], row["kl"], row["agreement"], row["exact"]) == (None, None, None, False)


def test_ratio_is_by_parameters_also_of_other_tools(cli: Cli, tmp_path: Path) -> None:
    model = tiny.encoder(vocabulary=len(WORDS))
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "weight")
    big = np.random.default_rng(0).standard_normal((512, 8)).astype(np.float32)
    weight.CopyFrom(onnx.numpy_helper.from_array(big.T @ big, "weight"))
    onnx.save(model, "float.onnx")
    ids = np.ones((1, 3), np.int64)
    feeds = {"input_ids": ids, "attention_mask": ids, "token_type_ids": 0 * ids}
    made = make(TOOLS["ort-dynamic"], Path("float.onnx"), tmp_path, feeds)
    data = tokenizer(tmp_path) / "pairs.csv"
    data.write_text("good film,good film,5\nfilm,a,2\nbad,the film,1\n")
    arguments = ("float.onnx", str(made.file), "--task", "similarity", "--data", str(data))
    first, second = json.loads(cli(*arguments, "--json").stdout)["models"]
    assert first["ratio"] == 1.0 and first["bits_per_weight"] == 32.0
    assert 1.5 < second["ratio"] <= 4.0 and second["ratio"] == pytest.approx(32 / second["bits_per_weight"])
    assert second["sqnr_db"] > 10 and second["kl"] is None
    assert cli(*arguments, "--min-ratio", "1.5").exit_code == 0
    with pytest.raises(GateError, match=r"--min-ratio is 5"):
        cli(*arguments, "--min-ratio", "5")


def test_similarity_with_chosen_columns(cli: Cli, tmp_path: Path) -> None:
    onnx.save(tiny.encoder(vocabulary=len(WORDS)), "a.onnx")
    data = tokenizer(tmp_path) / "pairs.csv"
    data.write_text("good film,x,good film,5\nfilm,x,a,2\nbad,x,the film,1\n")
    columns = ("--text", "0,2", "--label", "3", "--pooling", "first")
    result = json.loads(cli("a.onnx", "--task", "similarity", "--data", str(data), *columns, "--json").stdout)
    assert result["metric"] == "spearman" and 0 < result["models"][0]["metrics"]["spearman"] <= 100.001


def test_data_set(cli: Cli, tmp_path: Path) -> None:
    import datasets

    sentiment("right.onnx")
    tokenizer(tmp_path)
    rows = datasets.Dataset.from_dict({"text": ["good film", "bad"], "label": [1, 0]})
    datasets.DatasetDict(train=rows, test=rows).save_to_disk("films")
    result = json.loads(cli("right.onnx", "--task", "classification", "--data", "films:test", "--json").stdout)
    assert result["data"] == "films:test" and result["models"][0]["metrics"]["accuracy"] == 100.0


def test_token_classification(cli: Cli, tmp_path: Path) -> None:
    onnx.save(tiny.encoder(vocabulary=len(WORDS)), "a.onnx")
    (tokenizer(tmp_path) / "words.txt").write_text("good 1\nfilm 0\n\nbad 2\n")
    names = ["O", "B-ADJ", "B-N", "B-A", "B-B", "B-C", "B-D", "B-E"]
    (tmp_path / "config.json").write_text(json.dumps({"id2label": dict(enumerate(names))}))
    output = cli("a.onnx", "--task", "token-classification", "--data", "words.txt").stdout
    assert re.search(r"f1 +sion +recall", output) and len(cells(output, "a")) == 9


def surer(times: float) -> None:
    """`good.onnx`, and `sure.onnx` with so many times its logits."""
    model = tiny.decoder()
    onnx.save(model, "good.onnx")
    for tensor in model.graph.initializer:
        if tensor.name == "weight":
            tensor.raw_data = (times * onnx.numpy_helper.to_array(tensor)).astype(np.float32).tobytes()
    onnx.save(model, "sure.onnx")
    np.savez("ids.npz", tokens=np.arange(12) % 7, lengths=np.array([5, 7]))


def test_perplexity_drop_is_its_rise_in_percent(cli: Cli) -> None:
    surer(1.5)
    arguments = ("good.onnx", "sure.onnx", "--task", "perplexity", "--data", "ids.npz")
    result = json.loads(cli(*arguments, "--json").stdout)
    good, sure = result["models"]
    rise = 100 * (sure["metrics"]["perplexity"] / good["metrics"]["perplexity"] - 1)
    assert result["drop_unit"] == "percent" and rise > 10 and sure["drop"] == pytest.approx(rise)
    assert sure["agreement"] == 1.0 and sure["kl"] > 0.01
    assert cli(*arguments, "--max-drop", str(rise + 1)).exit_code == 0
    with pytest.raises(GateError, match="percent worse"):
        cli(*arguments, "--max-drop", str(rise - 1))


def test_nan_fails_the_gate(cli: Cli) -> None:
    surer(float("nan"))
    arguments = ("good.onnx", "sure.onnx", "--task", "perplexity", "--data", "ids.npz")
    assert "nan" in cli(*arguments).stdout
    assert json.loads(cli(*arguments, "--json").stdout)["models"][1]["metrics"] == {"perplexity": None}
    with pytest.raises(GateError, match="not a number"):
        cli(*arguments, "--max-drop", "1000")


def test_cache_adds_a_row_per_model_that_has_one(cli: Cli) -> None:
    surer(2)
    onnx.save(cumulative(), "cached.onnx")
    arguments = ("cached.onnx", "--task", "perplexity", "--data", "ids.npz", "--cache-step", "2")
    whole, cached = json.loads(cli(*arguments, "--json").stdout)["models"]
    assert (whole["model"], cached["model"]) == ("cached.onnx", "cached.onnx (cache, 2)")
    assert cached["metrics"]["perplexity"] == pytest.approx(whole["metrics"]["perplexity"], rel=1e-5)
    assert cached["bytes"] == whole["bytes"] and abs(cached["drop"]) < 1e-3
    onnx.save(tiny.encoder(), "plain.onnx")
    with pytest.raises(UsageError, match="--cache"):
        cli("plain.onnx", *arguments[1:])
    with pytest.raises(UsageError, match="only perplexity"):
        cli("cached.onnx", "--task", "token-classification", "--data", "words.txt", "--cache-step", "1")


def test_unknown_task(cli: Cli, sentences: str) -> None:
    known = "classification, regression, similarity, retrieval, perplexity, token-classification"
    with pytest.raises(UsageError, match=known):
        cli("a.onnx", "--task", "translation", "--data", sentences)
