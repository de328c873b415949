"""What a pass is, and what it says after it ran.

A pass is a frozen dataclass: its fields are its options, its docstring is its page in the catalogue, its
``promise`` says how far the outputs may move. Running it returns `Applied`: the places it changed, and the
places it looked at and declined, each with the reason. A refusal is data, never silence.
"""

from __future__ import annotations

import abc
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import LiftSubgraphInitializersToMainGraphPass

from bct_onnx.graph import optional, provenance, schema

PLAIN = re.compile(r"[^\s,{}\"]*")
"""An option's value that needs no quotes in a pipeline text."""

EXACT = "exact"
"""Promise of a pass that only re-spells: equal up to the rounding of the same formula in float."""


@dataclasses.dataclass(frozen=True)
class Site:
    """One place that a pass changed.

    Attributes:
        name: Name of the new node or tensor.
        before: Operators (or nodes) it replaced, in order.
        note: What a reader should know, for example the reconstruction error of a tensor.
        error: Squared error and squared norm of a tensor that was approximated; None where nothing was.
    """

    name: str
    before: tuple[str, ...] = ()
    note: str = ""
    error: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Declined:
    """One place that a pass considered and left as it was.

    Attributes:
        name: Name of the node or tensor.
        reason: Why, in words for the user.
        nbytes: Bytes of weights that stay as they are because of it.
    """

    name: str
    reason: str
    nbytes: int = 0


class Applied(ir.passes.PassResult):
    """Result of one pass: the model, what changed and what was declined.

    ``note`` is for the report's closing lines: what a reader should know of the pass as a whole.
    """

    def __init__(
        self,
        model: ir.Model,
        sites: Sequence[Site] = (),
        declined: Sequence[Declined] = (),
        *,
        modified: bool | None = None,
        note: str = "",
    ) -> None:
        super().__init__(model, bool(sites) if modified is None else modified)
        self.note = note
        self.sites = tuple(sites)
        self.declined = tuple(declined)

    @classmethod
    def of(cls, model: ir.Model, found: Iterable[Site | Declined | None]) -> Applied:
        """The result of a pass that looks at one place after another."""
        results = list(found)
        sites = [one for one in results if isinstance(one, Site)]
        return cls(model, sites, [one for one in results if isinstance(one, Declined)])


@dataclasses.dataclass(frozen=True)
class Pass(ir.passes.InPlacePass):
    """Base of every pass. Subclass it as a frozen dataclass and write `apply`.

    The passes of the collection set ``name``. A pass of a user's own leaves it out and is called ``module:Class``, by
    which a pipeline text finds it. ``str()`` of a pass is its pipeline text with the options that differ from their
    defaults; `spelled` has all.
    """

    name: ClassVar[str]
    promise: ClassVar[str] = EXACT

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        if "name" not in vars(cls):
            cls.name = f"{cls.__module__}:{cls.__qualname__}"

    @abc.abstractmethod
    def apply(self, model: ir.Model) -> Applied:
        """Rewrite ``model`` in place and say what was done."""

    def call(self, model: ir.Model) -> Applied:
        """Run the pass and stamp every node it made with its name (the `onnx_ir` entry point).

        Raises:
            InputModelError: The model's operator set is too old for these nodes.
        """
        with optional.set_aside(model), provenance.stamping(model, self.name) as made:
            applied = self.apply(model)
        _own_constants(model)
        schema.check_made(model, made, self.name)
        return applied

    def options(self, *, defaults: bool) -> Iterator[tuple[str, object]]:
        """Yield ``(name, value)`` of the options; those at their default only when ``defaults``."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if defaults or value != field.default:
                yield field.name, value

    def __str__(self) -> str:
        return self._text(defaults=False)

    def spelled(self) -> str:
        """The pipeline text with every option written out."""
        return self._text(defaults=True)

    def reads(self) -> Mapping[str, Path]:
        """Files it reads besides the model, by the option that names each."""
        return {}

    def fixed_size(self, dim: str) -> int | None:
        """The size that it gives dimensions of inputs and outputs called ``dim``; None where it keeps them."""
        return None

    def stamped(self) -> str:
        """As `spelled`, for the model's metadata: files without their folders, which are nobody's business."""
        return self._spell((dict(self.options(defaults=True)) | {k: v.name for k, v in self.reads().items()}).items())

    def with_options(self, changed: Mapping[str, object]) -> str:
        """The pipeline text with some options set anew; reading it back checks their values."""
        options = dict(self.options(defaults=False)) | {
            name: tuple(value) if isinstance(value, list) else value for name, value in changed.items()
        }
        return self._spell(options.items())

    def _text(self, *, defaults: bool) -> str:
        return self._spell(self.options(defaults=defaults))

    def _spell(self, options: Iterable[tuple[str, object]]) -> str:
        text = " ".join(f"{name.replace('_', '-')}={option_text(value)}" for name, value in options)
        return f"{self.name}{{{text}}}" if text else self.name


def _own_constants(model: ir.Model) -> None:
    """Let the root graph own the constants that a pass has made in a branch or a body of a loop.

    There they could have the name of one of a graph around them, and hide it.
    """
    if any(graph.initializers for graph in model.graph.subgraphs()):
        LiftSubgraphInitializersToMainGraphPass()(model)


def option_text(value: object) -> str:
    """Spell an option value as pipeline text: ``true``, ``32``, ``64x64``, ``two-level``, ``a|b``, ``"my file"``.

    >>> option_text(True), option_text((64, 64)), option_text(("lm_head", "classifier")), option_text("my file")
    ('true', '64x64', 'lm_head|classifier', '"my file"')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if isinstance(value, tuple):
        text = ("x" if value and all(isinstance(part, int) for part in value) else "|").join(map(str, value))
    return text if PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
