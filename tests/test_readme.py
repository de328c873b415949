"""The example of the six steps in README.md does what the golden cases beside it say."""

from __future__ import annotations

import importlib
import re
import textwrap
from pathlib import Path

import onnx_ir as ir
import pytest

from bct_onnx.base import Applied, NodePass
from bct_onnx.graph.canonical import canonical_text
from tests.passes import golden

README = Path(__file__).with_name("README.md")


def _block(language: str) -> str:
    """The first block of code of a language in the steps, as it stands in a file."""
    steps = README.read_text(encoding="utf-8").split("## A new pass in six steps")[1]
    match = re.search(rf"^ +```{language}\n(.*?)^ +```$", steps, re.MULTILINE | re.DOTALL)
    assert match is not None
    return textwrap.dedent(match[1])


def test_the_pass_of_the_example_does_what_its_cases_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fuse_example.py").write_text(_block("python"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    kind = importlib.import_module("fuse_example").FuseExample
    assert issubclass(kind, NodePass)
    file = tmp_path / f"{kind.name}.onnxtxt"
    file.write_text(_block(""), encoding="utf-8")
    fused, refused = golden.read(file)
    model, applied = _applied(kind(), fused)
    assert fused.after == " ".join(f"ops: {name}={count}" for name, count in golden.histogram(model).items())
    assert len(applied.sites) == 1 and not applied.declined
    model, applied = _applied(kind(), refused)
    assert refused.after == golden.SAME and canonical_text(model) == canonical_text(refused.model(refused.before))
    (declined,) = applied.declined
    assert refused.declined[0] in declined.reason


def _applied(example: NodePass, case: golden.Case) -> tuple[ir.Model, Applied]:
    model = case.model(case.before)
    return model, example(model)
