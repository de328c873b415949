"""Passes of a user's own, which a pipeline text names as ``module:Class``.

    bct-onnx rewrite model.onnx -o out.onnx --passes 'lift,my_passes:MyPass{limit=3}'

with, in ``my_passes.py`` of the current folder:

    @dataclasses.dataclass(frozen=True)
    class MyPass(Pass):
        # What it does, and what its options mean: its docstring.

        limit: int = 1

        def apply(self, model: ir.Model) -> Applied:
            ...
            return Applied(model, [Site(name) for name in changed])

The module is imported, which runs it: from where Python finds modules, and last from the current folder.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import get_origin

from bct_onnx.base import Pass
from bct_onnx.errors import UsageError, nearest

NAME = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"
"""Regular expression of such a name."""


def load(name: str) -> type[Pass]:
    """The class that ``module:Class`` names.

    Raises:
        UsageError: The module is not found or fails, or what it holds by this name is no pass to run.
    """
    module_name, _, class_name = name.partition(":")
    module = _module(module_name)
    kind = vars(module).get(class_name)
    if kind is None:
        raise UsageError(
            f"module '{module_name}' has no '{class_name}'",
            why=f"it was imported from {getattr(module, '__file__', None) or 'no file'}",
            fix=_hint(class_name, module),
        )
    _check(name, kind)
    assert isinstance(kind, type) and issubclass(kind, Pass)  # `_check` has looked
    return kind


def sources(graph_pass: Pass) -> tuple[Path, ...]:
    """The file that a pass of a user's own is written in; none for the passes of the collection."""
    if ":" not in graph_pass.name:
        return ()
    return (Path(inspect.getfile(type(graph_pass))),)


def _module(name: str) -> ModuleType:
    """Import a module by its name."""
    folder = str(Path.cwd())
    if folder not in sys.path:  # the command has its own folder there; last, so that nothing is hidden
        sys.path.append(folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _broken(name, error) from error
        raise UsageError(
            f"there is no module '{name}'",
            why=f"neither where Python looks for modules nor in {folder}",
            fix=f"run in the folder that holds {name.partition('.')[0]}, or put that folder on PYTHONPATH",
        ) from error
    except Exception as error:  # a user's module may raise anything as it is imported
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> UsageError:
    why = f"{type(error).__name__}: {error}"
    return UsageError(f"module '{name}' cannot be imported", why=why, fix=f"python -c 'import {name}' shows where")


def _check(name: str, kind: object) -> None:
    """Refuse what is no pass, or one that this name would not find again."""
    if not (isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, Pass)):
        fix = "make it a subclass of bct_onnx.base.Pass with the decorator @dataclasses.dataclass(frozen=True)"
        raise UsageError(f"'{name}' is no pass", why=f"it is {_described(kind)}", fix=fix)
    if inspect.isabstract(kind):
        missing = ", ".join(sorted(kind.__abstractmethods__))
        raise UsageError(f"'{name}' cannot run", why=f"it lacks {missing}", fix=f"write {missing}")
    if "__dataclass_fields__" not in vars(kind):
        fix = "decorate it with @dataclasses.dataclass(frozen=True)"
        raise UsageError(f"'{name}' is no dataclass", why="its options are the fields of a dataclass", fix=fix)
    if kind.name != f"{kind.__module__}:{kind.__qualname__}":
        raise UsageError(
            f"'{name}' calls itself '{kind.name}'",
            why="results are stamped with the name of each pass, and this one would not be found again by it",
            fix=f"leave 'name' out of the class: the pass is then called '{name}'",
        )


def _described(kind: object) -> str:
    if isinstance(kind, type):
        return "a class of another kind"
    return f"of type {type(kind).__name__}"


def _hint(class_name: str, module: ModuleType) -> str:
    """A hint at the passes that a module defines; aliases like ``dict[str, int]``, types to Python 3.10, are none."""
    kinds = {name: kind for name, kind in vars(module).items() if isinstance(kind, type) and get_origin(kind) is None}
    names = [name for name, kind in kinds.items() if issubclass(kind, Pass)]
    names = [name for name in names if vars(module)[name].__module__ == module.__name__]
    if not names:
        return "it has no pass: see bct_onnx.base.Pass"
    return nearest(class_name, names, "its passes")
