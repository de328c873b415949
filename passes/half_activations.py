"""Compute in float16 from one matrix product to the next."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Outcome, Pass, Site, Stage, identifier
from bct_onnx.errors import TargetError, UsageError
from bct_onnx.graph import halves, provenance, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.possible import possible_values
from bct_onnx.runtime.reach import Reach
from bct_onnx.runtime.statistics import measured

HIDDEN = -30000.0
"""What hides a score: its probability is 0 in any float, and with any score added it is still a number."""

MASKS = {"Attention": 3, "com.microsoft::MultiHeadAttention": 5, "com.microsoft::GroupQueryAttention": 10}
"""Attentions, and the input of each that is added to scores."""

TRIED = "with it in float16 an output would lose too much, maybe where rows see nothing"
"""Why an attention stays: a row that numbers hide wholly is a plain mean in float32, in float16 one by scores."""

PAST = (4, 5)
"""Inputs of ``Attention``: keys and values of the past."""

NBITS, SCALES = "com.microsoft::MatMulNBits", 2
"""A product whose scales, made when a session is created, have no type in the graph."""

PRODUCTS = ("MatMul", "Gemm", NBITS, *MASKS)
"""What float16 is for."""

NORMS = ("LayerNormalization", "RMSNormalization")
"""They sum in float32 by their definition; what they give beside their result is float32."""

BETWEEN = (
    *("Add", "Sub", "Mul", "Div", "Neg", "Sum", "Where", "Gelu", "Relu", "Tanh", "Sigmoid", "Erf", "RotaryEmbedding"),
    *("Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
    *NORMS,
)
"""What computes in float16 on its way from a product to another."""


@dataclasses.dataclass(frozen=True)
class HalfActivations(Pass):
    """Compute in float16 from one matrix product to the next, where values fit; inputs and outputs stay float32.

    Why:
        GPUs multiply float16 on units that are several times as fast as those for float32, and read half the bytes.

    Before/after:
        ``MatMul(Gelu(MatMul(x, w)), v)`` becomes ``Cast(MatMul(Gelu(MatMul(Cast(x), w16)), v16))``: everything between
        two products that is arithmetic, a normalization, or moves values. What a mask adds to scores is raised to
        -30000, which hides as well, unless it holds nothing that float16 has not, such as -inf; a row in which
        everything is hidden by finite numbers, such as padding, gets another mean of all values.

    Declines:
        Constants that float16 does not hold, or loses more than 60 dB of; nodes around which values came near the
        largest float16 (65504), attention scores among them, in samples that are made up here or in those of calibrate;
        attentions that are given keys and values of the past in float32, whose casts cost more than they gain; nodes
        named in ``keep``; products in branches and loops. Where an output would keep less than is promised attentions
        stay float32, and if that is not enough, or the model cannot be run here, everything does. Softmax and all other
        operators stay float32, and so does what leads from a product to one of these or out of the model.

    Options:
        margin: How many times larger than in the samples values may become.
        unmeasured: Where the model cannot be run here, or has more than 1 GiB of weights: ``decline``, or ``trust``
            that everything fits.
        keep: Name patterns of nodes that stay float32, joined by ``|``; ``*`` switches the pass off.

    Promise:
        Bounded: each value loses half a unit of float16, 2^-12 of it; every output keeps 40 dB of what it was, which
        the pass tries on samples before it changes anything, and every run checks on others.
    """

    name: ClassVar[str] = "half-activations"
    stage: ClassVar[Stage] = Stage.LOWER
    promise: ClassVar[str] = "bounded"
    least: ClassVar[float | None] = 40.0

    margin: float = 4.0
    unmeasured: Literal["decline", "trust"] = "decline"
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.margin >= 1:
            raise UsageError(f"margin={self.margin:g} is not allowed", fix="use 1 or more")

    def apply(self, model: ir.Model) -> Applied:
        """Halve what lies between products, unless a trial says that too much would be lost."""
        inner = [node for graph in model.graph.subgraphs() for node in graph if _is_product(node) and _floats(node)]
        declined = [Declined(node.name or node.op_type, "inside a branch or a loop") for node in inner]
        outcomes: list[Outcome] = []
        note = ""
        if any(_is_product(node) and _floats(node) and not self._keeps(node) for node in model.graph):
            try:
                tried, note = self._tried(model)
                outcomes += tried
            except TargetError as error:
                told = f"{error.what}: {error.why}" if error.why else error.what
                outcomes.append(Declined(model.graph.name or "graph", told))
        applied = Applied.of(model, [*declined, *outcomes])
        return Applied(model, applied.sites, applied.declined, note=note if applied.sites else "")

    def _tried(self, model: ir.Model) -> tuple[list[Outcome], str]:
        """Try it on a copy, and if that keeps what is promised, do it; with a note of how much that is.

        Raises:
            TargetError: There are no samples to try it on.
        """
        largest = _calibrated(model.graph)
        if self.unmeasured == "trust":
            return self._halved(model, largest), "computes in float16 between products; not tried here"
        reach = Reach(model, list(_around(model.graph)))
        largest = {name: max(most, largest.get(name, 0.0)) for name, most in reach.largest.items()}
        assert self.least is not None
        found = []
        for without in ((), tuple(MASKS)):
            trial = model.clone()
            with provenance.stamping(trial, self.name):  # for names that no other node has
                self._halved(trial, largest, without)
            rounded = [value.name or "" for node in trial.graph for value in node.outputs if _is_half(value)]
            found.append(reach.kept(trial, rounded))
            if found[-1] >= self.least:
                note = f"computes in float16 between products: outputs keep {found[-1]:.0f} dB"
                return self._halved(model, largest, without), note
        reason = f"an output would keep {found[0]:.0f} dB of what it was, not {self.least:.0f}"
        return [Declined(model.graph.name or "graph", reason)], ""

    def _halved(self, model: ir.Model, largest: Mapping[str, float], without: Sequence[str] = ()) -> list[Outcome]:
        """Do it, but for operators that were tried and lose too much."""
        halving = _Halving(model.graph, largest, halves.LARGEST / self.margin)
        outcomes: list[Outcome] = []
        for node in list(model.graph):
            if identifier(node) not in PRODUCTS + BETWEEN or node.graph is None:
                continue
            if self._keeps(node):
                outcomes.append(_stays(node, "kept by option keep"))
            elif identifier(node) in without:
                outcomes.append(_stays(node, TRIED))
            else:
                outcomes.append(halving.halve(node))
        halving.finish()
        return outcomes

    def _keeps(self, node: ir.Node) -> bool:
        return any(fnmatch.fnmatch(node.name or "", pattern) for pattern in self.keep)


class _Halving:
    """Gives one node after another float16 inputs; its results are cast back, for those who need that."""

    def __init__(self, graph: ir.Graph, largest: Mapping[str, float], limit: float) -> None:
        self._graph, self._largest, self._limit = graph, largest, limit
        self._halves: dict[tuple[ir.Value, bool], ir.Value] = {}
        self._leading = _leading(graph)

    def halve(self, node: ir.Node) -> Outcome:
        """Compute one node in float16, or say why it stays."""
        floats = _floats(node)
        follows = any(_source(value) is not None for value in floats.values())
        if not floats or not (_is_product(node) or (node in self._leading and follows)):
            return None
        if len(node.outputs) > 1 and node.op_type in NORMS:
            return Declined(node.name or node.op_type, "it gives its mean or deviation too, in float32")
        if reason := self._refusal(node, floats):
            return Declined(node.name or node.op_type, reason)
        edit = Edit(node)
        inputs = list(node.inputs)
        for place, value in floats.items():
            inputs[place] = self._half(edit, value, hides=MASKS.get(identifier(node)) == place and not _fits(value))
        attributes: dict[str, Any] = dict(node.attributes)
        count = len(node.outputs)
        made = edit.op(node.op_type, *inputs, domain=node.domain, outputs=count, name="half", **attributes).producer()
        assert made is not None
        for old, half in zip(list(node.outputs), made.outputs, strict=True):
            if old.name == "":  # left out
                half.name = ""
                continue
            half.type, half.shape = ir.TensorType(ir.DataType.FLOAT16), old.shape
            wide = edit.op("Cast", half, to=ir.DataType.FLOAT, name="float")
            wide.type = ir.TensorType(ir.DataType.FLOAT)
            edit.replace(old, wide)
        return Site(made.name or "", (node.op_type,))

    def finish(self) -> None:
        """Store every constant once: drop the float32 of those that are float16 now, cast those needed as both."""
        for (value, _), half in self._halves.items():
            if not _is_constant(value):
                continue
            if value.is_initializer() and not value.uses() and not value.is_graph_output():
                del self._graph.initializers[value.name or ""]
            elif value.uses():
                cast = Edit(self._graph[0], value.name or "").op("Cast", value, to=ir.DataType.FLOAT16, name="half")
                cast.type, cast.shape = half.type, half.shape
                half.replace_all_uses_with(cast)
                del self._graph.initializers[half.name or ""]

    def _refusal(self, node: ir.Node, floats: Mapping[int, ir.Value]) -> str:
        for value in floats.values():
            for constant in _constants(value):
                if not _holds(constant):
                    return f"float16 does not hold the values of '{constant.name}'"
        past = [node.inputs[place] for place in PAST if place < len(node.inputs)]
        if node.op_type == "Attention" and any(value is not None and value in floats.values() for value in past):
            return "keys and values of the past come in float32"
        mask = MASKS.get(identifier(node))
        values = [*(value for place, value in floats.items() if place != mask), *node.outputs]
        most = max((self._largest.get(value.name or "", 0.0) for value in values), default=0.0)
        if most > self._limit:
            return f"values up to {most:.0f} were seen here, and float16 ends at {halves.LARGEST:.0f}"
        return ""

    def _half(self, edit: Edit, value: ir.Value, *, hides: bool) -> ir.Value:
        """The float16 of a value: what it is the float32 of, or made once."""
        source = _source(value, stored=True)
        if source is not None and not hides:
            return source
        key = (value, hides)
        if key not in self._halves:
            self._halves[key] = self._stored(value) if _is_constant(value) and not hides else _cast(edit, value, hides)
        return self._halves[key]

    def _stored(self, value: ir.Value) -> ir.Value:
        half, _ = halves.halved(tensors.array(value))
        tensors.release(value)
        return tensors.constant(self._graph, f"{value.name}.half", half)


def _leading(graph: ir.Graph) -> set[ir.Node]:
    """The nodes of a graph whose results reach a product by way of others that can compute in float16."""
    leading: set[ir.Node] = set()
    for node in reversed(graph):
        if identifier(node) not in BETWEEN:
            continue
        users = {use.node for output in node.outputs for use in output.uses() if use.node.graph is graph}
        if any(_is_product(user) or user in leading for user in users):
            leading.add(node)
    return leading


def _around(graph: ir.Graph) -> Iterator[ir.Value]:
    """The computed floats around nodes that can compute in float16."""
    found: dict[ir.Value, None] = {}
    for node in graph:
        if identifier(node) in PRODUCTS + BETWEEN and (floats := _floats(node)):
            found.update(dict.fromkeys((*floats.values(), *node.outputs)))
    for value in found:
        computed = value.producer() is not None and not tensors.is_constant_expression(value)
        if value.name and computed and value.dtype in (ir.DataType.FLOAT, None):
            yield value


def _calibrated(graph: ir.Graph) -> dict[str, float]:
    """The largest magnitudes that calibrate saw, by name."""
    found: dict[str, float] = {}
    for node in graph:
        for value in node.outputs:
            if (statistics := measured(value)) is not None:
                found[value.name or ""] = float(statistics.max_abs.max(initial=0.0))
    return found


def _is_product(node: ir.Node) -> bool:
    return identifier(node) in PRODUCTS


def _floats(node: ir.Node) -> dict[int, ir.Value]:
    """The inputs that are float32, by their places."""
    scales = SCALES if identifier(node) == NBITS else None
    floats = {place: value for place, value in enumerate(node.inputs) if value is not None}
    return {
        place: value
        for place, value in floats.items()
        if value.dtype == ir.DataType.FLOAT or (place == scales and value.dtype is None and _of_float(node))
    }


def _of_float(node: ir.Node) -> bool:
    return node.inputs[0] is not None and node.inputs[0].dtype in (ir.DataType.FLOAT, None)


def _is_half(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.FLOAT16 and not tensors.is_constant_expression(value)


def _source(value: ir.Value, *, stored: bool = False) -> ir.Value | None:
    """The computed float16 that ``value`` is the float32 of; with ``stored`` one that lies in the file too."""
    cast = value.producer()
    if cast is None or cast.op_type != "Cast" or value.dtype != ir.DataType.FLOAT:
        return None
    source = cast.inputs[0]
    if source is None or source.dtype != ir.DataType.FLOAT16:
        return None
    return source if stored or source.producer() is not None else None


def _is_constant(value: ir.Value) -> bool:
    """Whether it lies in the file, as an initializer or a ``Constant`` node."""
    return not value.is_graph_input() and ir.convenience.get_const_tensor(value) is not None


def _constants(value: ir.Value) -> Iterator[ir.Value]:
    """The float32 that a constant is made of, itself or by nodes."""
    if not _is_constant(value) and not tensors.is_constant_expression(value):
        return
    queue, seen = [value], {value}
    while queue:
        one = queue.pop()
        if _is_constant(one):
            if one.dtype == ir.DataType.FLOAT:
                yield one
        elif (node := one.producer()) is not None:
            queue += [used for used in node.inputs if used is not None and used not in seen]
            seen.update(queue)


def _fits(mask: ir.Value) -> bool:
    """Whether all that a mask can hold is a float16 as it is; -inf is one."""
    found = possible_values(mask)
    return found is not None and all(one == -math.inf or abs(one) <= halves.LARGEST for one in found)


def _holds(value: ir.Value) -> bool:
    _, error = halves.halved(tensors.array(value))
    tensors.release(value)
    return halves.holds(error)


def _cast(edit: Edit, value: ir.Value, hides: bool) -> ir.Value:
    shape = value.shape
    if hides:
        value = edit.op("Max", value, edit.scalar("hidden", HIDDEN, ir.DataType.FLOAT))
        value.type = ir.TensorType(ir.DataType.FLOAT)
    half = edit.op("Cast", value, to=ir.DataType.FLOAT16, name="half")
    half.type, half.shape = ir.TensorType(ir.DataType.FLOAT16), shape
    return half


def _stays(node: ir.Node, reason: str) -> Outcome:
    return Declined(node.name or node.op_type, reason) if _is_product(node) and _floats(node) else None
