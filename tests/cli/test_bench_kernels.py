from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bct_onnx.cli import bench
from bct_onnx.errors import UsageError
from bct_onnx.runtime import tuning
from bct_onnx.runtime.kernel_costs import Costs, load

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
app.command()(bench.bench)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Measure nothing: the measurement has a test of its own."""
    monkeypatch.chdir(tmp_path)
    shipped = load("avx2")

    def measured(name: str, about: str, *, rounds: int, threads: int) -> Costs:
        return Costs(name, about, shipped.branch_ns * rounds, shipped.kernels)

    monkeypatch.setattr(tuning, "tune", measured)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["--kernels", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_a_table_is_written_and_read_back() -> None:
    output = run("-o", "mine.json", "--rounds", "3")
    costs = load("mine.json")
    assert costs.name == "mine" and costs.branch_ns == pytest.approx(3 * load("avx2").branch_ns)
    assert (
        "wrote mine.json" in output and "nbits4" in output and "avx512-vnni" in output and "ONNX Runtime" in costs.about
    )


def test_nothing_is_written_unasked(tmp_path: Path) -> None:
    assert "this machine" in run("--json") and list(tmp_path.iterdir()) == []


def test_usage() -> None:
    with pytest.raises(UsageError, match=r"\.json file"):
        run("-o", "costs.txt")
    run("-o", "mine.json")
    with pytest.raises(UsageError, match="exists"):
        run("-o", "mine.json")
    run("-o", "mine.json", "--force")
