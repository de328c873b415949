"""Every pass is documented the same way, shown on an example, tested with a refusal, and listed in the catalogue.

Whoever adds a pass follows the six steps of ``tests/README.md``; these tests say which of them is missing.
"""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import passes
from bct_onnx.base import Pass
from bct_onnx.cli.tables.catalogue import page
from bct_onnx.registry import PASSES
from tests.passes import golden

HEADINGS = ("Why:", "Before/after:", "Declines:", "Options:", "Promise:")
CATALOGUE = Path(passes.__file__).resolve().parent / "README.md"

every_pass = pytest.mark.parametrize("kind", PASSES.values(), ids=PASSES)


def _page(kind: type[Pass]) -> str:
    return inspect.cleandoc(vars(kind).get("__doc__") or "")


def _section(kind: type[Pass], heading: str) -> str:
    match = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^\S|\Z)", _page(kind), re.MULTILINE | re.DOTALL)
    return inspect.cleandoc(match[1]) if match else ""


@every_pass
def test_page_has_the_fixed_headings(kind: type[Pass]) -> None:
    page = _page(kind)
    first = page.split("\n\n", maxsplit=1)[0]
    assert first.endswith("."), "the page begins with a sentence that says what the pass does"
    found = re.findall(r"^(\S.*:)$", page, re.MULTILINE)
    assert tuple(heading for heading in found if heading in HEADINGS) == HEADINGS, "step 2 of tests/README.md"
    assert all(_section(kind, heading) for heading in HEADINGS)


@every_pass
def test_page_names_every_option(kind: type[Pass]) -> None:
    section = _section(kind, "Options:")
    options = [field.name for field in dataclasses.fields(kind)]
    if not options:
        assert section == "None."
    for option in options:
        spelled = option.replace("_", "[-_]")
        assert re.search(rf"^(``)?{spelled}(``)?:", section, re.MULTILINE), f"{option} is not explained"


@every_pass
def test_is_a_frozen_dataclass_in_a_file_of_its_name(kind: type[Pass]) -> None:
    assert kind.__module__ == "passes." + kind.name.replace("-", "_")
    assert golden.pass_class(kind.name) is kind
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().__setattr__("name", "another")
    assert str(kind()) == kind.name, "the defaults need no option"


@every_pass
def test_is_shown_on_an_example(kind: type[Pass]) -> None:
    module = importlib.import_module(kind.__module__)
    examples = [test for test in doctest.DocTestFinder().find(kind, kind.__name__, module=module) if test.examples]
    assert examples or (golden.FOLDER / f"{kind.name}.onnxtxt").is_file(), (
        "neither a doctest nor a golden file (step 1 of tests/README.md)"
    )


@every_pass
def test_refuses_something_or_says_why_it_never_does(kind: type[Pass]) -> None:
    file = golden.FOLDER / f"{kind.name}.onnxtxt"
    refusals = [reason for case in golden.read(file) for reason in case.declined] if file.is_file() else []
    page = _section(kind, "Declines:")
    assert refusals or page.startswith("Nothing") or "declined" in _page(kind), "no refusal in a golden file or doctest"


def test_the_catalogue_is_up_to_date() -> None:
    assert page() == CATALOGUE.read_text(encoding="utf-8"), (
        "write it anew: bct-onnx list passes --markdown > passes/README.md (step 5 of tests/README.md)"
    )


def test_every_file_holds_a_listed_pass() -> None:
    files = {module.name for module in pkgutil.iter_modules(passes.__path__)}
    listed = {name.replace("-", "_") for name in PASSES}
    assert files == listed, f"not in PASSES of passes/__init__.py: {files - listed} (step 3 of tests/README.md)"


def test_every_golden_file_belongs_to_a_pass() -> None:
    assert {file.stem for file in golden.FOLDER.glob("*.onnxtxt")} <= set(PASSES)
