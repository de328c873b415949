"""The pages for readers: links lead somewhere, commands and their options exist, and the front page stays short."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from bct_onnx import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    page
    for folder in (".", "bct_onnx", "passes", "tests", "models", "findings")
    for page in (ROOT / folder).glob("*.md" if folder == "." else "**/*.md")
)

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def commands(page: Path) -> Iterator[list[str]]:
    """The command lines of this program in the page's code blocks, without what is joined to them."""
    blocks = re.findall(
        r"^ *```(?:sh|console)?\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            found = re.search(r"\bbct-onnx (?=[a-z])(.*)", line)
            if found is not None:
                yield shlex.split(re.split(r"&&|;| # ", found[1])[0], comments=True)


def test_the_front_page_has_at_most_150_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


@every_page
def test_commands_and_their_options_exist(page: Path) -> None:
    program = typer.main.get_group(cli.app)
    known = {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in program.commands.items()
    }
    for words in commands(page):
        assert words[0] in known, words
        options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert options <= known[words[0]] | {"-h"}, words
