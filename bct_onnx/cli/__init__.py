"""The command line: one file per command, and `main`, which turns every way to end into an exit code.

========= ==============================================================
exit code meaning
========= ==============================================================
0         done
1         a gate failed, or nothing was changed
2         the command line, a pipeline or a recipe is wrong
3         the input model is unusable
4         the target runtime cannot run the result
5         the result could not be written
70        a bug in this program
130, 143  stopped by Ctrl-C or by a termination signal; no output is half written
========= ==============================================================

Command files import heavy libraries inside their functions: ``--help`` has to answer at once.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from bct_onnx import __version__
from bct_onnx.cli import bench, compare, export, inspect, listing, rewrite, study
from bct_onnx.cli.aliases import CommandGroup
from bct_onnx.cli.groups import PanelCommand
from bct_onnx.errors import BctError, Interrupted, Stopped
from bct_onnx.graph.atomic import PUBLISHED

INTERNAL_ERROR = 70
"""Exit code for a bug in this program (EX_SOFTWARE in sysexits.h)."""

app = typer.Typer(
    name="bct-onnx",
    cls=CommandGroup,
    help="Make an exported ONNX transformer small and fast: a sequence of graph passes, without retraining.",
    epilog="'bct-onnx COMMAND -h' explains a command.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("rewrite", cls=rewrite.RewriteCommand, short_help="Make an exported model small and fast.")(rewrite.rewrite)
for function, name, summary in (
    (inspect.inspect, "inspect", "Show what a model is made of, and what a target would not take."),
    (compare.compare, "compare", "Tell how far outputs are apart, or score models on a task."),
    (bench.bench, "bench", "Time models side by side, other tools' results among them."),
    (study.study, "study", "Tell what each part costs: ingredient, pass, tensor, size."),
    (export.export, "export", "Turn a Hugging Face checkpoint into a checked ONNX file."),
    (listing.list_names, "list", "List the presets, targets and passes, or explain one."),
):
    app.command(name, cls=PanelCommand, short_help=summary)(function)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: Arguments without the program's name; those of the process when None.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in arguments or os.environ.get("BCT_DEBUG", "") not in ("", "0")
    published = len(PUBLISHED)
    try:
        with _stopping_on_signals():
            typer.main.get_command(app).main(arguments, prog_name="bct-onnx")
    except SystemExit as end:
        return _finish(end.code if isinstance(end.code, int) else int(end.code is not None))
    except Stopped as stop:
        written = ", ".join(map(str, PUBLISHED[published:]))
        print(f"interrupted; {f'{written} was already written' if written else 'nothing was written'}", file=sys.stderr)
        return 128 + stop.signum
    except BctError as error:
        if debug:
            traceback.print_exc()
        _complain("error", str(error))
        return error.exit_code
    except Exception:
        _complain("internal error", _bug_report())
        return INTERNAL_ERROR
    return _finish(0)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"bct-onnx {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors (also: BCT_DEBUG=1).")] = False,
) -> None:
    del version, debug  # `main` reads --debug itself: it also handles the errors that come before this


@contextlib.contextmanager
def _stopping_on_signals() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into an exception, so that clean-up code runs; a second one ends the process."""
    signals = (signal.SIGINT, signal.SIGTERM)

    def stop(signum: int, frame: FrameType | None) -> NoReturn:
        for each in signals:
            signal.signal(each, signal.SIG_DFL)
        if signum == signal.SIGINT:
            raise Interrupted(signum)
        raise Stopped(signum)

    try:
        before = [signal.signal(each, stop) for each in signals]
    except ValueError:  # not in the main thread: whoever runs this owns the signals
        yield
        return
    try:
        yield
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)


def _finish(code: int) -> int:
    """Flush what was printed; a reader that has gone away (``| head``) is no error of ours."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _complain(label: str, message: str) -> None:
    """Print ``label: message`` on stderr, the label coloured where stderr is a terminal."""
    text = Text.assemble((f"{label}: ", "bold red"), message)
    Console(stderr=True, highlight=False).print(text, soft_wrap=True)


def _bug_report() -> str:
    setting = f"bct-onnx {__version__}, Python {platform.python_version()}, {platform.platform()}"
    return f"this is a bug in bct-onnx; please report it with all that follows\n{setting}\n{traceback.format_exc()}"
