"""Passes of a user's own in a pipeline text: found by module:Class, run and stamped by it, or refused with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bct_onnx import recipe, registry
from bct_onnx.course import Course
from bct_onnx.errors import UsageError
from bct_onnx.graph import load, provenance
from bct_onnx.study.allocation import cache

OWN = '''\
"""Passes that a user has written."""

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Pass, Site


@dataclasses.dataclass(frozen=True)
class Twice(Pass):
    """Negates the outputs of products twice, which is exact.

    limit: Products that are negated at most.
    """

    limit: int = 1

    def apply(self, model: ir.Model) -> Applied:
        products = [node for node in model.graph if node.op_type == "MatMul"][: self.limit]
        for node in products:
            first = ir.node("Neg", [node.outputs[0]])
            second = ir.node("Neg", first.outputs)
            node.outputs[0].replace_all_uses_with(second.outputs[0], replace_graph_outputs=True)
            first.replace_input_with(0, node.outputs[0])
            second.outputs[0].name, node.outputs[0].name = node.outputs[0].name, "product"
            second.outputs[0].type, second.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
            model.graph.insert_after(node, (first, second))
        return Applied(model, [Site(node.name or "MatMul") for node in products])


@dataclasses.dataclass(frozen=True)
class Named(Twice):
    name: ClassVar[str] = "fuse-gelu"


class Undecorated(Twice):
    depth: int = 3


@dataclasses.dataclass(frozen=True)
class Unfinished(Pass):
    pass


number = 3
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a module of passes and one that fails."""
    (tmp_path / "my_own_passes.py").write_text(OWN)
    (tmp_path / "my_broken_passes.py").write_text("import dataclasses\nlimit = 1 / 0\n")
    (tmp_path / "my_needy_passes.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


@pytest.mark.usefixtures("folder")
def test_its_text_finds_it_again() -> None:
    pipeline = registry.parse("lift,my_own_passes:Twice{limit=2},clean-up")
    assert "my_own_passes:Twice{limit=2}" in str(pipeline)
    assert registry.parse(str(pipeline)) == registry.parse(pipeline.full_text()) == pipeline
    assert registry.parse("my_own_passes:Twice").full_text() == "my_own_passes:Twice{limit=1}"


def test_a_recipe_has_options_for_it(folder: Path) -> None:
    file = folder / "recipe.toml"
    file.write_text('passes = "lift,my_own_passes:Twice"\n[options."my_own_passes:Twice"]\nlimit = 3\n')
    assert str(recipe.read(file)[0]).endswith("my_own_passes:Twice{limit=3}")


@pytest.mark.parametrize(
    ("name", "what", "why", "fix"),
    [
        ("my_lost_passes:Twice", "there is no module 'my_lost_passes'", "neither where Python looks", "PYTHONPATH"),
        ("my_own_passes.more:Twice", "there is no module 'my_own_passes.more'", "neither", "PYTHONPATH"),
        ("my_broken_passes:Twice", "cannot be imported", "ZeroDivisionError: division by zero", "python -c"),
        ("my_needy_passes:Twice", "cannot be imported", "a_module_that_is_not_there", "python -c"),
        ("my_own_passes:Twise", "has no 'Twise'", "my_own_passes.py", "did you mean 'Twice'?"),
        ("my_own_passes:number", "is no pass", "of type int", "subclass of bct_onnx.base.Pass"),
        ("my_own_passes:Site", "is no pass", "a class of another kind", "subclass of bct_onnx.base.Pass"),
        ("my_own_passes:Unfinished", "cannot run", "it lacks apply", "write apply"),
        ("my_own_passes:Undecorated", "is no dataclass", "fields of a dataclass", "frozen=True"),
        ("my_own_passes:Named", "calls itself 'fuse-gelu'", "stamped", "leave 'name' out"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_cannot_be_used_is_refused(name: str, what: str, why: str, fix: str) -> None:
    with pytest.raises(UsageError) as error:
        registry.parse(f"lift,{name}{{limit=2}}")
    assert what in error.value.what and why in error.value.why and fix in error.value.fix
    assert error.value.where == f"the pipeline text\n    lift,{name}{{limit=2}}\n         ^"


@pytest.mark.usefixtures("folder")
def test_its_options_are_checked() -> None:
    with pytest.raises(UsageError, match="'my_own_passes:Twice' has no option 'limt'") as error:
        registry.parse("my_own_passes:Twice{limt=2}")
    assert "did you mean 'limit'?" in error.value.fix


@pytest.mark.whole
def test_the_command_finds_it_in_the_current_folder(folder: Path, source: Path) -> None:
    """Run as its script is, whose own folder is the first that Python looks in, not the current one."""
    start = "import sys; sys.path.remove(''); from bct_onnx.cli import main; sys.exit(main())"
    home = str(Path(registry.__file__).parent.parent)
    arguments = ["rewrite", str(source), "-o", "out.onnx", "--passes", "normalize,my_own_passes:Twice{limit=1}"]
    arguments += ["--keep-passes", "kept"]
    command = [sys.executable, "-c", start, *arguments, "--target", "portable"]
    subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": home}, check=True)
    model = load.load(folder / "out.onnx")
    assert "my_own_passes:Twice{limit=1}" in model.metadata_props["bct_onnx.pipeline"]
    stamps = [node.metadata_props[provenance.PASS] for node in model.graph if node.op_type == "Neg"]
    assert stamps == ["my_own_passes:Twice"] * 2
    assert "02-my_own_passes.Twice.onnx" in [file.name for file in (folder / "kept").iterdir()]


def test_what_is_kept_between_runs_is_of_its_code_too(folder: Path, source: Path) -> None:
    pipeline = registry.parse("lift,my_own_passes:Twice")
    course = Course(tuple(pipeline), len(pipeline), source=source)
    before = cache.key(course)
    assert cache.key(course) == before
    (folder / "my_own_passes.py").write_text(OWN + "number = 4\n")
    assert cache.key(course) != before
