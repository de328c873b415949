"""Option groups: one parameter of a command, several options on its command line, one panel of its help."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Annotated, ClassVar

import pytest
import typer
from typer.testing import CliRunner

from bct_onnx import cli
from bct_onnx.cli.groups import OptionGroup, PanelCommand, grouped


@dataclasses.dataclass(frozen=True)
class Greeting(OptionGroup):
    panel: ClassVar[str] = "How to greet"

    polite: Annotated[bool, typer.Option("--polite", help="As strangers do.")] = False
    word: Annotated[str | None, typer.Option(metavar="WORD", help="Instead.")] = None


@grouped
def greet(
    name: Annotated[str, typer.Argument()],
    *,
    greeting: Greeting,
    twice: Annotated[bool, typer.Option("--twice", help="Once more.")] = False,
) -> None:
    word = greeting.word or ("Good day" if greeting.polite else "Hi")
    print(f"{word}, {name}" * (2 if twice else 1))


app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
app.command(cls=PanelCommand)(greet)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_its_fields_are_options() -> None:
    assert list(inspect.signature(greet).parameters) == ["name", "polite", "word", "twice"]
    assert run("Ada") == "Hi, Ada\n" and run("Ada", "--polite") == "Good day, Ada\n"
    assert run("Ada", "--word", "Hey", "--twice") == "Hey, AdaHey, Ada\n"


def test_options_whose_default_is_none_are_seen_as_python_3_10_has_them() -> None:
    """It reads ``Annotated[X, option] = None`` as an ``Optional`` of that; later versions do not."""

    def tell(names: Annotated[list[str] | None, typer.Argument()] | None = None) -> None:
        print(names)

    told = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    told.command(cls=PanelCommand)(grouped(tell))
    assert CliRunner().invoke(told, ["a", "b"]).stdout == "['a', 'b']\n"


def test_its_panel_comes_before_the_other_options() -> None:
    headings = [line for line in run("--help").splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Arguments:", "How to greet:", "Options:"]
    assert Greeting.panel == "How to greet"


def test_the_panels_of_rewrite(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rewrite", "-h"]) == 0
    printed = capsys.readouterr().out
    headings = ["What to write:", "How small (", "With which data:", "How to check it:", "Options:", "Presets ("]
    places = [printed.index(f"\n{heading}") for heading in headings]
    assert places == sorted(places)
    assert printed.count("--preset NAME") == 1 and "\n  w4a8 " in printed
