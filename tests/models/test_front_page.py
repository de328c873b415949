"""The runner of the front page finds all that it shows, and what needs no further client works as it stands there."""

from __future__ import annotations

from pathlib import Path

import pytest

from models import front_page
from models.front_page import README, Snippet, prepare, run, snippets

SHOWN = snippets(README.read_text(encoding="utf-8"))
OURS = {"onnxruntime", "bct_onnx"}
"""Modules that every environment of the tests has."""
QUICK = [
    each
    for each in SHOWN
    if OURS.issuperset(each.modules) and (each.language == "python" or "inspect" in each.name or "list" in each.name)
]


def test_everything_that_a_reader_would_copy_is_found() -> None:
    text = README.read_text(encoding="utf-8")
    commands = [each.code for each in SHOWN if each.language == "sh"]
    assert all(any(command in line for line in text.splitlines()) for command in commands)
    assert sum(command.startswith("bct-onnx rewrite") for command in commands) >= 6
    clients = [module for each in SHOWN for module in each.modules]
    for client in ("onnxruntime", "onnxruntime_genai", "optimum", "sentence_transformers", front_page.TRANSFORMERS_JS):
        assert client in clients


def test_some_of_each_kind_are_run() -> None:
    assert {each.language for each in QUICK} == {"sh", "python"} and len(QUICK) >= 4


def test_statements_go_with_the_library_they_use() -> None:
    block = "```python\nimport a\nfrom b.c import D\n\nx = a.f(1)\ny = D(2)\n```\n"
    page = f"{block}and `bct-onnx list NAME`, `bct-onnx list`\n"
    assert snippets(page) == [
        Snippet(2, "python", "import a\nx = a.f(1)", ("a",)),
        Snippet(3, "python", "from b.c import D\ny = D(2)", ("b",)),
        Snippet(8, "sh", "bct-onnx list"),
    ]


@pytest.mark.whole
def test_a_snippet_that_fails_is_seen(tmp_path: Path) -> None:
    assert run(Snippet(1, "sh", "bct-onnx inspect there-is-none.onnx"), tmp_path).returncode == 3
    assert run(Snippet(1, "python", "raise SystemExit(7)", ()), tmp_path).returncode == 7
    assert "no_such_module" in front_page.missing(Snippet(1, "python", "", ("no_such_module",)), None)


@pytest.mark.whole
@pytest.mark.parametrize("snippet", QUICK, ids=lambda snippet: snippet.name)
def test_what_needs_no_client_runs(snippet: Snippet, tmp_path: Path) -> None:
    prepare(tmp_path, snippet)
    done = run(snippet, tmp_path)
    assert done.returncode == 0, done.stderr
