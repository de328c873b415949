"""What a pass is, and what it says after it ran.

A pass is a frozen dataclass: its fields are its options, its docstring is its page in the catalogue, its ``promise``
says how far the outputs may move, its ``stage`` what it is for. Running it returns `Applied`: the places it changed,
and the places it looked at and declined, each with the reason. A refusal is data, never silence.

`Pass` rewrites a model in whatever way it likes, `NodePass` looks at every node of some operators, and
`bct_onnx.storing.StoringPass` stores tensors in few bits.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import onnx_ir as ir

from bct_onnx.graph import branches, names, operators, optional, provenance, schema, walk
from bct_onnx.option_text import option_text
from bct_onnx.quant import Error, Scheme

EXACT = "exact"
"""Promise of a pass that only writes the same formula anew: equal up to its rounding in float."""

AnyPass = TypeVar("AnyPass", bound="Pass")


class Use(enum.Enum):
    """What a stored tensor is used for."""

    ROWS = "rows of it are looked up"
    FLOATS = "floats are multiplied by it"
    CODES = "codes are multiplied by it"


class Stage(enum.Enum):
    """What a pass is for. A pipeline runs the stages in this order.

    >>> Stage.STORE.quantizes, Stage.HALVE.quantizes, Stage.HALVE.compresses
    (True, False, True)
    """

    LIFT = "many forms of an operator become one standard form"
    TRIM = "parts of the model go: what nobody reads, or layers, for the rest to be trained"
    MEASURE = "values and weights are measured"
    PREPARE = "outliers move to where they cost least"
    ALLOT = "each tensor gets the format in which it will be stored"
    STORE = "weights and tables become codes of few bits"
    TRAIN = "codes learn what rounding has lost"
    CODE = "values that flow through the graph become codes"
    CORRECT = "what codes have moved on average is moved back"
    INTEGER = "functions between codes become integer arithmetic"
    HALVE = "what no product of matrices needs is stored in fewer bytes"
    LOWER = "the portable result becomes what one runtime executes fastest"
    PACK = "what is computed for nobody goes"
    TIDY = "what has no effect goes"

    @property
    def quantizes(self) -> bool:
        """Whether its passes replace floats by codes, which a model that has codes already cannot take."""
        return self in (Stage.STORE, Stage.CODE)

    @property
    def compresses(self) -> bool:
        """Whether its passes make the file smaller."""
        return self in (Stage.STORE, Stage.HALVE)


@dataclasses.dataclass(frozen=True)
class Site:
    """One place that a pass changed.

    Attributes:
        name: Name of the new node or tensor.
        before: Operators (or nodes) it replaced, in order.
        note: What a reader should know, for example the reconstruction error of a tensor.
        error: Of a tensor that was approximated; None where nothing was.
    """

    name: str
    before: tuple[str, ...] = ()
    note: str = ""
    error: Error | None = None


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


Outcome = Site | Declined | None
"""What became of one place; None where there was nothing to do."""


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
    def of(cls, model: ir.Model, outcomes: Iterable[Outcome]) -> Applied:
        """The result of a pass that looks at one place after another."""
        sites: list[Site] = []
        declined: list[Declined] = []
        for outcome in outcomes:
            if isinstance(outcome, Site):
                sites.append(outcome)
            elif outcome is not None:
                declined.append(outcome)
        return cls(model, sites, declined)


@dataclasses.dataclass(frozen=True)
class Pass(ir.passes.InPlacePass):
    """Base of every pass. Subclass it as a frozen dataclass and write `apply`.

    The passes of the collection set ``name``. A pass of a user's own leaves it out and is called ``module:Class``, by
    which a pipeline text finds it. ``str()`` of a pass is its pipeline text with the options that differ from their
    defaults; `full_text` has all.

    Attributes:
        promise: `EXACT`, which every run holds it to, or ``bounded``.
        least: Of a bounded pass, the dB that every output keeps of what it was just before, which every run holds it
            to; None where the loss is only reported, because it depends on the model.
    """

    name: ClassVar[str]
    stage: ClassVar[Stage] = Stage.LIFT
    promise: ClassVar[str] = EXACT
    least: ClassVar[float | None] = None
    needs_before: ClassVar[bool] = False
    """Whether it compares the model with what it was before anything was stored (see `bct_onnx.graph.before`)."""
    stores_rows_alike: ClassVar[bool] = False
    """Whether it gives all rows of a table the same bits, so that widths of their own would save nothing."""

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
        with optional.set_aside(model), provenance.stamping(model, self.name) as nodes, names.remembered():
            applied = self.apply(model)
        branches.own_constants(model)
        schema.check_made(model, nodes, self.name)
        return applied

    def __call__(self, model_or_result: ir.Model | ir.passes.PassResult, /) -> Applied:
        """Rewrite a model, or the model of another pass's result, in place."""
        applied = super().__call__(model_or_result)
        assert isinstance(applied, Applied)  # what `call` gives
        return applied

    def replace(self: AnyPass, **options: Any) -> AnyPass:
        """The pass with some options set anew, by the names of its fields.

        Raises:
            UsageError: A value is not allowed. Types are not checked: `bct_onnx.option_text.read_options` does that.
        """
        return dataclasses.replace(self, **options)

    def written_bits(self, shape: tuple[int, int], scheme: Scheme, use: Use) -> int | None:
        """Bits that a weight takes once this pass has written what was stored in a scheme in another form.

        Args:
            shape: K and N of what was stored.
            scheme: How it was stored.
            use: What it is used for.

        Returns:
            None where it stays as it is stored.
        """
        return None

    def options(self, *, defaults: bool) -> Iterator[tuple[str, object]]:
        """Yield ``(name, value)`` of the options; those at their default only when ``defaults``."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if defaults or value != field.default:
                yield field.name, value

    def reads(self) -> Mapping[str, Path]:
        """Files it reads besides the model, by the option that names each."""
        return {}

    def fixed_size(self, dim: str) -> int | None:
        """The size that it gives dimensions of inputs and outputs called ``dim``; None where it keeps them."""
        return None

    def __str__(self) -> str:
        return self._text(dict(self.options(defaults=False)))

    def full_text(self) -> str:
        """The pipeline text with every option, defaults too."""
        return self._text(dict(self.options(defaults=True)))

    def stamp_text(self) -> str:
        """As `full_text`, for the model's metadata: files without their folders, which are nobody's business."""
        files = {option: file.name for option, file in self.reads().items()}
        return self._text(dict(self.options(defaults=True)) | files)

    def _text(self, options: Mapping[str, object]) -> str:
        text = " ".join(f"{name.replace('_', '-')}={option_text(value)}" for name, value in options.items())
        if text:
            return f"{self.name}{{{text}}}"
        return self.name


class NodeRewriter(abc.ABC):
    """Rewrites one node of a model after another, and holds what they share."""

    @abc.abstractmethod
    def __call__(self, node: ir.Node) -> Outcome:
        """Rewrite one node, or say why it stays."""

    def finish(self) -> Iterable[Outcome]:
        """Do what is left once every node was visited."""
        return ()


@dataclasses.dataclass(frozen=True)
class NodePass(Pass):
    """A pass that looks at every node of some operators: set ``operators`` and write `rewrite`.

    Where nodes share something (constants made once for all, plans made before the first is changed), override
    `rewriter` instead: it gives the function, or `NodeRewriter`, that is called with one node after another.

    Attributes:
        operators: ``Gelu``, or with a domain ``com.microsoft::QGemm``.
        inner: Whether the graphs inside of nodes (branches of an ``If``, bodies of loops) are visited too.
        imports: A domain of operators that the model imports once something has changed; empty for none.
    """

    operators: ClassVar[tuple[str, ...]]
    inner: ClassVar[bool] = True
    imports: ClassVar[str] = ""

    def apply(self, model: ir.Model) -> Applied:
        """Visit the nodes in graph order, as they were before the first was changed."""
        every = walk.nodes(model.graph) if self.inner else model.graph
        nodes = [node for node in every if operators.identifier(node) in self.operators]
        rewrite = self.rewriter(model, nodes)
        outcomes: list[Outcome] = []
        for node in nodes:
            if node.graph is not None:  # else it went with a neighbour
                outcomes.append(rewrite(node))
        if isinstance(rewrite, NodeRewriter):
            outcomes += rewrite.finish()
        applied = Applied.of(model, outcomes)
        if self.imports and applied.sites:
            model.opset_imports.setdefault(self.imports, 1)
        return applied

    def rewriter(self, model: ir.Model, nodes: Sequence[ir.Node]) -> Callable[[ir.Node], Outcome]:
        """What rewrites one of ``nodes`` after another."""
        return lambda node: self.rewrite(node, model)

    def rewrite(self, node: ir.Node, model: ir.Model) -> Outcome:
        """Rewrite one node, or say why it stays."""
        raise NotImplementedError(f"{self.name} says neither how one node is rewritten nor what rewrites all")
