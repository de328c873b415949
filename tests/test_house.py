"""The house rules of passes, over the syntax tree: each rewrite stands alone and says of itself what it is."""

from __future__ import annotations

import ast
import functools
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from bct_onnx.base import NodePass, Stage
from bct_onnx.registry import PASSES

ROOT = Path(__file__).resolve().parents[1]
PASS_FILES = sorted(file for file in (ROOT / "passes").glob("*.py") if file.name != "__init__.py")
PRODUCT_FILES = sorted((ROOT / "bct_onnx").rglob("*.py"))
MEDIAN = 120
"""Lines of the median pass, its page in the catalogue included."""
LONGEST = 300
"""Lines of a file."""


PREFIXES = {name.partition("-")[0] for name in PASSES if "-" in name} | {name for name in PASSES if "-" in name}
"""How names of passes begin."""


OPTIONS = {"name", "stage", "promise", "operators"}.union(*(kind.__dataclass_fields__ for kind in PASSES.values()))
"""Options of passes, and what every pass says of itself."""


@functools.lru_cache(maxsize=1)
def nodes(source: str) -> tuple[ast.AST, ...]:
    """The syntax tree of one file at a time, the module first, however many rules look at it."""
    return tuple(ast.walk(ast.parse(source)))


def imports(source: str) -> Iterator[str]:
    """Every module that is imported, however it is written, inside of functions too."""
    for node in nodes(source):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield ("." * node.level) + (node.module or "")
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Call) and called(node) == "import_module":
            yield from (
                text.value for text in node.args if isinstance(text, ast.Constant) and isinstance(text.value, str)
            )


def called(call: ast.Call) -> str:
    """The last part of the name of what is called; empty where it has none."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def of_passes(module: str) -> bool:
    """Whether a module is the collection or one of it."""
    return module == "passes" or module.startswith(("passes.", "."))


def pass_imports(source: str) -> list[str]:
    """Passes that a file imports."""
    return [module for module in imports(source) if of_passes(module)]


def name_tests(source: str) -> list[str]:
    """Where the name of a pass, or its pipeline text, is asked for a prefix."""
    asked = []
    for node in nodes(source):
        if not (isinstance(node, ast.Call) and called(node) in ("startswith", "removeprefix")):
            continue
        prefixes = [text.value for each in node.args for text in ast.walk(each) if isinstance(text, ast.Constant)]
        words = {str(prefix).rstrip("-") for prefix in prefixes}
        if words & PREFIXES:
            asked.append(ast.unparse(node))
    return asked


def guesses(source: str) -> list[str]:
    """Where something is asked whether it has an option of passes."""
    asked = []
    for node in nodes(source):
        if isinstance(node, ast.Call) and called(node) in ("hasattr", "getattr"):
            text = node.args[1] if len(node.args) > 1 else None
            if isinstance(text, ast.Constant) and text.value in OPTIONS:
                asked.append(ast.unparse(node))
    return asked


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def dense(source: str) -> list[str]:
    """What reads better as a loop or a function: two loops in a comprehension, a conditional within a conditional."""
    crowded: list[str] = []
    for node in nodes(source):
        if isinstance(node, COMPREHENSIONS) and len(node.generators) > 1:
            crowded.append(ast.unparse(node))
        if isinstance(node, ast.IfExp) and sum(isinstance(inner, ast.IfExp) for inner in ast.walk(node)) > 1:
            crowded.append(ast.unparse(node))
    return crowded


def rewrites(source: str) -> list[str]:
    """The classes of a file that are decorated as passes are and derive from one of their bases."""
    classes = [node for node in nodes(source) if isinstance(node, ast.ClassDef)]
    return [node.name for node in classes if any(ast.unparse(base).endswith("Pass") for base in node.bases)]


@pytest.mark.parametrize("file", PASS_FILES, ids=lambda file: file.stem)
def test_no_pass_imports_another(file: Path) -> None:
    assert pass_imports(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("file", PASS_FILES, ids=lambda file: file.stem)
def test_each_file_holds_one_rewrite(file: Path) -> None:
    assert len(rewrites(file.read_text(encoding="utf-8"))) == 1


@pytest.mark.parametrize("file", [*PRODUCT_FILES, *PASS_FILES], ids=lambda file: str(file.relative_to(ROOT)))
def test_each_file_keeps_the_rules(file: Path) -> None:
    """The registry alone imports passes; no name of a pass is asked for a prefix, and no pass whether it has an option;
    no text is dense."""
    source = file.read_text(encoding="utf-8")
    if file in PRODUCT_FILES:
        assert bool(pass_imports(source)) == (file.name == "registry.py")
    assert name_tests(source) == []
    assert guesses(source) == []
    assert dense(source) == []
    assert len(source.splitlines()) <= LONGEST


def test_the_median_pass_is_short() -> None:
    lengths = [len(file.read_text(encoding="utf-8").splitlines()) for file in PASS_FILES]
    assert statistics.median(lengths) <= MEDIAN


def test_passes_run_in_the_order_of_their_stages() -> None:
    order = list(Stage)
    stages = [order.index(kind.stage) for kind in PASSES.values()]
    assert stages == sorted(stages)


def test_passes_over_nodes_say_how_one_is_rewritten() -> None:
    over_nodes = [kind for kind in PASSES.values() if issubclass(kind, NodePass)]
    assert over_nodes
    for kind in over_nodes:
        assert kind.operators, kind.name
        assert ("rewrite" in vars(kind)) != ("rewriter" in vars(kind)), f"{kind.name}: one of the two"
        assert "apply" not in vars(kind) or "super().apply" in (ROOT / f"passes/{kind.__module__[7:]}.py").read_text(
            encoding="utf-8"
        ), f"{kind.name} visits nodes by itself"


@pytest.mark.parametrize(
    "planted",
    [
        "from passes.fuse_gelu import FuseGelu",
        "import passes.fuse_gelu",
        "def late():\n    from passes import fuse_gelu",
        "from .fuse_gelu import FuseGelu",
        "importlib.import_module('passes.fuse_gelu')",
    ],
)
def test_an_import_is_found_however_it_is_written(planted: str) -> None:
    assert pass_imports(planted)


@pytest.mark.parametrize(
    "planted",
    [
        "any(one.name.startswith('quantize') for one in passes)",
        "step.text.startswith(('lower-', 'integer-'))",
        "name.removeprefix('fuse-')",
    ],
)
def test_a_prefix_is_found(planted: str) -> None:
    assert name_tests(planted)


@pytest.mark.parametrize("planted", ["hasattr(one, 'keep')", "getattr(each, 'formats', ())", "getattr(kind, 'stage')"])
def test_a_guess_is_found(planted: str) -> None:
    assert guesses(planted)


def test_two_rewrites_are_found() -> None:
    assert len(rewrites("class A(Pass): pass\nclass B(NodePass): pass\nclass Helper: pass")) == 2


@pytest.mark.parametrize(
    "planted", ["{a for b in c for a in b}", "1 if a else 2 if b else 3", "(1 if a else 2) if b else 3"]
)
def test_density_is_found(planted: str) -> None:
    assert dense(planted)


def test_plain_text_is_left() -> None:
    assert not dense("[a for a in b if a]\n1 if a else 2")
