"""How the command line ends: codes, messages, signals, closed pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from bct_onnx import __version__, cli, errors

COMMANDS = [str(info.name) for info in cli.app.registered_commands]
RunCli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``ending(error, *arguments)``: the exit code of a program whose only command raises ``error``."""

    def run(error: BaseException, *arguments: str) -> int:
        program = typer.Typer(rich_markup_mode=None)
        program.callback()(cli._options)

        @program.command()
        def fail() -> None:
            raise error

        monkeypatch.setattr(cli, "app", program)
        return cli.main([*arguments, "fail"])

    return run


def test_the_commands() -> None:
    assert COMMANDS == ["rewrite", "inspect", "compare", "bench", "study", "export", "list"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "-h"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"Usage: bct-onnx {command}") and "--help" in printed


def test_help_lists_the_commands_without_loading_anything_heavy(run_cli: RunCli) -> None:
    done = run_cli("--help")
    assert done.returncode == 0 and all(f"\n  {command} " in done.stdout for command in COMMANDS)
    probe = "import sys, bct_onnx.cli; print({'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'torch'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    assert loaded.stdout.strip() == "set()"


def test_version(run_cli: RunCli) -> None:
    done = run_cli("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"bct-onnx {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["exprot"], "Did you mean 'export'?"),
        (["export", "model", "-o", "x.onnx", "--opste", "18"], "--opset"),
        (["export", "model", "-o", "x.onnx", "--opset", "many"], "valid integer"),
        (["export", "model"], "--output"),
        (["export", "-o", "x.onnx"], "MODEL"),
    ],
)
def test_usage_errors(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert said in printed.err and "Try 'bct-onnx" in printed.err and printed.out == ""


def test_no_arguments_are_a_usage_error_that_shows_the_help(run_cli: RunCli) -> None:
    done = run_cli()
    assert done.returncode == 2 and "Commands:" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.GateError, 1),
        (errors.UsageError, 2),
        (errors.InputModelError, 3),
        (errors.TargetError, 4),
        (errors.OutputError, 5),
    ],
)
def test_an_error_of_ours_is_a_message_and_a_code(
    kind: type[errors.BctError], code: int, ending: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    error = kind("it broke", where="[bold]file[/bold] " + "x" * 300, fix="pip install 'bct-onnx[export]'")
    assert ending(error) == code
    printed = capsys.readouterr()
    assert printed.err == f"error: {error}\n" and printed.out == ""


@pytest.mark.parametrize("how", ["option", "variable"])
def test_debugging_shows_where_an_error_comes_from(
    how: str, ending: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if how == "variable":
        monkeypatch.setenv("BCT_DEBUG", "1")
    assert ending(errors.InputModelError("it broke"), *(["--debug"] if how == "option" else [])) == 3
    printed = capsys.readouterr().err
    assert "Traceback" in printed and "in fail" in printed and printed.endswith("error: it broke\n")


def test_a_bug_asks_to_be_reported(ending: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(ZeroDivisionError("nobody thought of this")) == 70
    printed = capsys.readouterr().err
    assert printed.startswith("internal error: this is a bug in bct-onnx; please report it")
    assert __version__ in printed and "in fail" in printed and "ZeroDivisionError: nobody thought of this" in printed


def test_main_leaves_the_signals_as_they_were(ending: Callable[..., int]) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert ending(errors.GateError("x")) == 1
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_runs_clean_up_code_and_says_one_line(number: signal.Signals, code: int, tmp_path: Path) -> None:
    process = _start(
        """
        Path("draft").write_text("half of it")
        try:
            print("ready", flush=True)
            time.sleep(60)
        except Exception:
            print("swallowed", flush=True)
        finally:
            Path("draft").unlink()
        """,
        tmp_path,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "", "interrupted; nothing was written\n")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    process = _start(
        """
        time.sleep(0.2)
        for number in range(100_000):
            print(number)
        """,
        tmp_path,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) in (0, 1) and said == ""


def test_a_reader_that_goes_away_before_little_output(tmp_path: Path) -> None:
    process = _start("time.sleep(0.2); print('one line')", tmp_path)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0 and said == ""


def test_colours_are_for_terminals_only(run_cli: RunCli) -> None:
    done = run_cli("export", "./nowhere", "-o", "x.onnx", TERM="xterm-256color")
    assert done.returncode != 0 and "\x1b" not in done.stderr + done.stdout


def _start(body: str, folder: Path) -> subprocess.Popen[str]:
    """Start a program whose only command runs ``body``, the way ``bct-onnx`` runs its commands."""
    indented = textwrap.indent(textwrap.dedent(body), "    ")
    code = f"""
import sys, time
from pathlib import Path
import typer
from bct_onnx import cli

cli.app = typer.Typer(rich_markup_mode=None)

@cli.app.command()
def only() -> None:
{indented}

sys.exit(cli.main([]))
"""
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2]), "PYTHONUNBUFFERED": ""}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=env
    )
