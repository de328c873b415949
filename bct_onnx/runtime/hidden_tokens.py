"""Whether nodes that mix tokens hide those that a mask hides: what stands at padding changes nothing elsewhere.

The nodes are run on random values of tokens, and again with other values, and with zeros, where the mask hides them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from bct_onnx.errors import TargetError
from bct_onnx.graph import protobuf, walk
from bct_onnx.graph.names import map_values, names_of
from bct_onnx.graph.neighbours import made_by, operand, outputs_of, read_by
from bct_onnx.graph.opset import imports_of
from bct_onnx.graph.padding.layout import Layout, Mixing
from bct_onnx.graph.padding.row_wise import APART, FLAT
from bct_onnx.graph.tensor_messages import embed
from bct_onnx.runtime.session import run, session

Array = npt.NDArray[Any]

LENGTHS = (12, 16, 32, 5)
"""Lengths of the texts tried, until the nodes run: some take multiples of a window only."""

_TEXTS = 4
_MOST = 1 << 26  # numbers of a value that is tried
_CLOSE = 32.0  # units in the last place of the largest result: sums in another order


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the mask is to be understood.

    Attributes:
        hides: Whether it is true where a token is padding.
        read: Positions that the model reads by their numbers.
        all_read: Whether these count as real whatever the mask says; else they are real in every sample.
    """

    hides: bool = False
    read: tuple[int, ...] = ()
    all_read: bool = True


def leak(model: ir.Model, layout: Layout, mixing: Mixing, reading: Reading) -> str:
    """How hidden tokens reach others, or why that is not known; empty where they do not.

    Args:
        model: What the nodes are part of.
        layout: How its values lie.
        mixing: The nodes.
        reading: What its mask means.
    """
    where = mixing.nodes[0].name or mixing.nodes[0].op_type
    mixing = dataclasses.replace(mixing, results=(*mixing.results, *layout.decided_by(mixing)))
    try:
        runner = session(_alone(model, mixing), optimize="disabled")
    except TargetError as error:
        return f"what it does with padding cannot be tried at '{where}': {error.why}"
    problem = ""
    for length in LENGTHS:
        samples = _Samples(layout, mixing, length, reading)
        if untried := samples.untried():
            return untried
        try:
            return _compared(samples, mixing, runner, where)
        except TargetError as error:
            problem = problem or f"what it does with padding cannot be tried at '{where}': {error.why}"
    return problem


def shortens(model: ir.Model, layout: Layout, mixing: Mixing, reading: Reading) -> bool:
    """Whether the nodes give short texts the same without what stands behind the last real token of all of them.

    What enters without texts and tokens as its first axes (one number for each text, for example) cannot be shortened.
    """
    try:
        runner = session(_alone(model, mixing), optimize="disabled")
    except TargetError:
        return False
    for length in LENGTHS:
        samples = _Samples(layout, mixing, length, reading)
        feeds = samples.inputs() | samples.tokens(1, samples.kept, None)
        if not all(map(samples.has_tokens, feeds.values())):
            return False
        try:
            whole = run(runner, feeds)
            short = run(runner, map_values(samples.short, feeds))
        except TargetError:
            continue
        kept = samples.short(samples.kept)
        for before, after in zip(whole, short, strict=True):
            if not samples.has_tokens(before) or not _alike(samples.short(before)[kept], after[kept]):
                return False
        return True
    return False


def _compared(samples: _Samples, mixing: Mixing, runner: Any, where: str) -> str:
    kept, feeds = samples.kept, samples.inputs()
    first = run(runner, feeds | samples.tokens(1, kept, None))
    for fill in ("other", "zeros"):
        second = run(runner, feeds | samples.tokens(1, kept, fill))
        for value, before, after in zip(mixing.results, first, second, strict=True):
            if not _alike(samples.of_kept(value, before), samples.of_kept(value, after)):
                return f"hidden tokens change what '{where}' gives others"
    return ""


def _alike(before: Array, after: Array) -> bool:
    if before.shape != after.shape:
        return False
    if before.dtype.kind != "f":
        return bool(np.array_equal(before, after))
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return False
    most = float(np.abs(before).max(initial=0.0))
    difference = float(np.abs(before.astype(np.float64) - after).max(initial=0.0))
    return difference <= _CLOSE * float(np.finfo(before.dtype).eps) * most


class _Samples:
    """Values for what enters, some texts of one length: whole, padded on either side, and with holes."""

    def __init__(self, layout: Layout, mixing: Mixing, length: int, reading: Reading) -> None:
        self._layout, self._mixing = layout, mixing
        texts, declared = (layout.shapes.of(layout.mask) or ())[:APART]
        self._sizes = {
            texts: texts if isinstance(texts, int) else _TEXTS,
            declared: declared if isinstance(declared, int) else length,
        }
        batch, sequence = self._sizes[texts], self._sizes[declared]
        self._lead = (batch, sequence)
        real = np.ones((_TEXTS, sequence), np.bool_)
        real[1, sequence // 2 :] = False
        real[2, : sequence // 3] = False
        real[3, 1::3] = False
        rows = (0, 1, 2, 3) if batch > 1 else (3,)
        self._real: Array = real[[rows[i % len(rows)] for i in range(batch)]]
        self.kept: Array = self._real.copy()
        self.kept[:, [position for position in reading.read if -sequence <= position < sequence]] = True
        if not reading.all_read:
            self._real = self.kept
        self._hides = reading.hides

    def of_kept(self, value: ir.Value, array: Array) -> Array:
        """The rows of real tokens, of a value that has a row for each."""
        axes = self._layout.axes(value)
        if axes:
            return array.reshape(-1, *array.shape[axes:])[self.kept.reshape(-1)]
        return array

    def has_tokens(self, array: Array) -> bool:
        """Whether an array has texts and tokens as its first axes."""
        return array.shape[:APART] == self._lead

    def short(self, array: Array) -> Array:
        """The padded half of the texts, without what stands behind their last real token."""
        return array[1:2, : self._lead[1] // 2]

    def _shape(self, value: ir.Value) -> list[int | None]:
        axes, shape = self._layout.axes(value), self._layout.shapes.of(value) or ()
        leading = {APART: list(self._lead), FLAT: [math.prod(self._lead)], 0: []}[axes]
        others = [size if isinstance(size, int) else self._sizes.get(size) for size in shape[axes:]]
        return [*leading, *others]

    def _sized(self, value: ir.Value, unknown: int) -> list[int]:
        return [size or unknown for size in self._shape(value)]

    def untried(self) -> str:
        """Why values of these sizes are not drawn; empty where they are."""
        for value in self._mixing.entries:
            if self._layout.shapes.of(value) is None or None in self._shape(value):
                return f"the shape of '{value.name}' is not known"
        for value in (*self._mixing.entries, *self._layout.inputs):
            if not 0 <= math.prod(self._sized(value, 1)) <= _MOST:
                return f"'{value.name}' is declared with sizes that are not tried"
        return ""

    def tokens(self, seed: int, kept: Array, fill: str | None) -> dict[str, Array]:
        """Random values; those of hidden tokens are others, or zeros, with a ``fill``."""
        feeds = {}
        for number, value in enumerate(self._mixing.entries):
            shape = self._sized(value, 0)
            dtype = dtype_of(value)
            array = _drawn(shape, dtype, seed + number)
            axes = self._layout.axes(value)
            if fill is not None and axes:
                other = _drawn(shape, dtype, seed + number + 1000) if fill == "other" else np.zeros_like(array)
                array, other = (each.reshape(kept.size, *shape[axes:]) for each in (array, other))
                array = np.where(kept.reshape(-1, *[1] * (array.ndim - 1)), array, other).reshape(shape)
            feeds[value.name or ""] = array
        return feeds

    def inputs(self) -> dict[str, Array]:
        """The model's own inputs: small numbers, and the mask."""
        feeds = {}
        for value in self._layout.inputs:
            shape = self._sized(value, 3)
            feeds[value.name or ""] = (np.arange(math.prod(shape)).reshape(shape) % 2).astype(dtype_of(value))
        mask = ~self._real if self._hides else self._real
        feeds[self._layout.mask.name or ""] = mask.astype(dtype_of(self._layout.mask))
        return feeds


def dtype_of(value: ir.Value) -> npt.DTypeLike:
    """The type of a value; of one that has none what its maker is known to give, or float32."""
    if value.dtype is not None:
        return np.dtype(value.dtype.numpy())
    moved = made_by(value, "Reshape", "Transpose", "Split", "Squeeze", "Unsqueeze", "Identity", "Slice", "Concat")
    source = operand(made_by(value, "QuantizeLinear"), 2) or operand(moved, 0)
    if source is not None:
        return dtype_of(source)
    return np.float32


def _drawn(shape: Sequence[int], dtype: npt.DTypeLike, seed: int) -> Array:
    random, kind = np.random.default_rng(seed), np.dtype(dtype)
    if kind.kind == "f":
        return random.normal(size=shape).astype(kind)
    if kind.kind == "b":
        return random.random(shape) < 0.5
    if kind.itemsize > 1:
        return random.integers(0, 2, shape).astype(kind)
    limits = np.iinfo(kind)
    return random.integers(limits.min, limits.max, shape, endpoint=True).astype(kind)


def _entering(nodes: Sequence[ir.Node]) -> list[ir.Value]:
    """What nodes read that none of them makes, each once."""
    made = set(outputs_of(nodes))
    return [value for value in dict.fromkeys(read_by(*nodes)) if value not in made]


def _alone(model: ir.Model, mixing: Mixing) -> bytes:
    """A model of these nodes and of what serves them, whose inputs are the values of tokens that they read."""
    nodes = walk.in_order({*mixing.nodes, *mixing.free}, model.graph)
    nodes = [*_constants(_entering(nodes), mixing.entries), *nodes]
    needed = _entering(nodes)
    made = _inner(nodes)
    inputs = [value for value in needed if not value.is_initializer() and value not in made]
    graph = onnx.helper.make_graph(
        list(map(ir.serde.serialize_node, nodes)),
        "mixing",
        [onnx.helper.make_tensor_value_info(value.name or "", _onnx_type(value), None) for value in inputs],
        protobuf.undeclared(names_of(mixing.results)),
    )
    for value in filter(ir.Value.is_initializer, needed):
        assert value.const_value is not None
        tensor = ir.serde.serialize_tensor(value.const_value)
        tensor.name = value.name or ""
        embed(tensor, value.const_value)  # some lie in files
        graph.initializer.append(tensor)
    functions = list(map(ir.serde.serialize_function, model.functions.values()))
    proto = onnx.helper.make_model(
        graph, opset_imports=imports_of(model), functions=functions, ir_version=model.ir_version
    )
    return bytes(proto.SerializeToString())


def _inner(nodes: Iterable[ir.Node]) -> set[ir.Value]:
    """Values that graphs inside of nodes make or are given."""
    values: set[ir.Value] = set()
    for node in nodes:
        for graph in walk.inner(node):
            values.update(graph.inputs, outputs_of(graph.all_nodes()))
    return values


def _constants(values: Iterable[ir.Value], entries: Sequence[ir.Value]) -> list[ir.Node]:
    """The nodes that compute constants among ``values``, in order."""
    ordered: dict[ir.Node, None] = {}

    def visit(value: ir.Value) -> None:
        maker = value.producer()
        if maker is None or maker in ordered or value in entries:
            return
        for before in read_by(maker):
            visit(before)
        ordered[maker] = None

    for value in values:
        visit(value)
    return list(ordered)


def _onnx_type(value: ir.Value) -> int:
    return int(ir.DataType.from_numpy(np.dtype(dtype_of(value))))
