"""What normalizations are off on average, once those before them are no longer off.

One run per batch does for all of them: within the graph the mean of each over the batch is brought to what it was, so
that what follows sees the error that is left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.forms.biases import Bias
from bct_onnx.graph import provenance
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.names import by_name, names_of
from bct_onnx.graph.neighbours import outputs_of
from bct_onnx.graph.tensors import Array
from bct_onnx.progress import told
from bct_onnx.quant import Error
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.inputs import inputs_of
from bct_onnx.runtime.session import Optimize, run, session
from bct_onnx.tasks.calibration import CalibrationData
from bct_onnx.tasks.outputs import main_output
from bct_onnx.tasks.parts import evenly

Moves = dict[str, npt.NDArray[np.float64]]
"""By how much each bias is to be moved, [D], by the name of what its normalization gave before."""

OPTIMIZE: Optimize = "basic"
"""What ONNX Runtime 1.32 makes of some products of codes and the additions behind them does not run."""

_IN_THE_RUN = "correct_biases.in_the_run"
"""Input that says whether means are brought to what they were (1), or biases moved by what is given (0)."""


SEQUENCE, TOKENS = 128, 1 << 13
"""Tokens in a sequence, and in all together, at most."""

JUDGED = 5
"""One sequence in so many is held back to judge by: 16 texts of a classifier of two classes tell too little."""

BATCH = 32
"""Sequences per run: what their means have by chance is taken for an error as well."""


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
    """What calibrate was given, in batches.

    Attributes:
        learned: To measure on.
        held_back: To judge by.
        held_back_rows: Sequences in `held_back`.
    """

    learned: tuple[Feeds, ...]
    held_back: tuple[Feeds, ...]
    held_back_rows: int

    @classmethod
    def read(cls, model: ir.Model, limit: int) -> Texts | None:
        """At most ``limit`` sequences that together have no more than `TOKENS`; None where there are fewer than two.

        Raises:
            UsageError: The data cannot be read.
        """
        samples = CalibrationData.of(model).read(inputs_of(model), limit, SEQUENCE)
        rows = list(samples.rows)
        if samples.tokens > TOKENS:
            rows = evenly(rows, max(2, len(rows) * TOKENS // samples.tokens))
        if len(rows) < 2:
            return None
        others = [row for number, row in enumerate(rows) if number % JUDGED != 1]
        parts = [dataclasses.replace(samples, rows=tuple(part)) for part in (others, rows[1::JUDGED])]
        return cls(tuple(parts[0].batches(BATCH)), tuple(parts[1].batches(BATCH)), len(parts[1].rows))


@dataclasses.dataclass(frozen=True, eq=False)
class Expected:
    """A batch, and what the model before made of it.

    Attributes:
        feeds: The batch.
        means: The mean of each normalization, [D] float32, in the order of the biases.
        output: The main output; None where it was not asked for.
    """

    feeds: Feeds
    means: list[Array]
    output: Array | None


def expected(before: ir.Model, biases: Sequence[Bias], batches: Iterable[Feeds], *, outputs: bool) -> list[Expected]:
    """What a model makes of some batches, with its main output where ``outputs`` says so; it is not changed.

    Raises:
        TargetError: ONNX Runtime cannot load or run it.
    """
    runner = session(_with_means(before, biases, corrected=False))
    names = [_mean(bias.before) for bias in biases]
    if outputs:
        names.append(main_output(names_of(before.graph.outputs)))
    made: list[Expected] = []
    for feeds in told(batches, 0):
        arrays = run(runner, feeds, names)
        made.append(Expected(feeds, arrays[: len(biases)], arrays[-1] if outputs else None))
    return made


class Corrected:
    """A model in ONNX Runtime whose biases are moved while it runs.

    Args:
        model: As it is now; it is not changed.
        biases: Of it.

    Raises:
        TargetError: ONNX Runtime cannot load it.
    """

    def __init__(self, model: ir.Model, biases: Sequence[Bias]) -> None:
        self._sizes = {bias.before: bias.size for bias in biases}
        self._output = main_output(names_of(model.graph.outputs))
        self._session = session(_with_means(model, biases, corrected=True), optimize=OPTIMIZE)

    @property
    def unmoved(self) -> Moves:
        """Moves by nothing."""
        return {name: np.zeros(size) for name, size in self._sizes.items()}

    def measure(self, batches: Iterable[Expected]) -> Moves:
        """By how much to move each bias, so that means are what they were.

        Raises:
            TargetError: ONNX Runtime cannot run the model.
        """
        names = list(map(_mean, self._sizes))
        total, count = self.unmoved, 0
        for batch in batches:
            wanted = dict(zip(map(_wanted, self._sizes), batch.means, strict=True))
            feeds = {**batch.feeds, **wanted, **_moves(self.unmoved), _IN_THE_RUN: _switch(1)}
            tokens = max(array.size for array in batch.feeds.values())
            count += tokens
            for name, target, mean in zip(self._sizes, batch.means, run(self._session, feeds, names), strict=True):
                total[name] += tokens * (target.astype(np.float64) - mean)
        return {name: off / max(1, count) for name, off in total.items()}

    def error(self, batches: Iterable[Expected], moves: Moves) -> Error:
        """The error of the main output with moved biases.

        Raises:
            TargetError: ONNX Runtime cannot run the model.
        """
        wanted = {_wanted(name): np.zeros(size, np.float32) for name, size in self._sizes.items()}
        error = Error()
        for batch in batches:
            assert batch.output is not None  # it was asked for
            feeds = {**batch.feeds, **wanted, **_moves(moves), _IN_THE_RUN: _switch(0)}
            error += Error.of(batch.output, run(self._session, feeds, [self._output])[0])
        return error


def _moves(moves: Moves) -> Feeds:
    return {_move(name): move.astype(np.float32) for name, move in moves.items()}


def _with_means(model: ir.Model, biases: Sequence[Bias], *, corrected: bool) -> ir.Model:
    """A copy that gives the mean of each normalization as well, [D] float32, and where it is ``corrected`` takes what
    that mean was and how far to move it."""
    copy = model.clone()
    made = by_name(outputs_of(copy.graph))
    with provenance.stamping(copy, "correct-biases"):
        in_the_run = _vector(_IN_THE_RUN, 1)
        if corrected:
            copy.graph.inputs.append(in_the_run)
        for bias in biases:
            value = made[bias.output if corrected else bias.before]
            node = value.producer()
            assert node is not None  # it is what a node gives
            edit = Edit(node, after=True)
            floats = edit.op("Cast", value, to=ir.DataType.FLOAT)
            flat = edit.op("Reshape", floats, edit.shape("flat", [-1, bias.size]))
            mean = edit.op("ReduceMean", flat, edit.shape("rows", [0]), keepdims=0)
            mean.name, mean.type, mean.shape = (
                _mean(bias.before),
                ir.TensorType(ir.DataType.FLOAT),
                ir.Shape([bias.size]),
            )
            copy.graph.outputs.append(mean)
            if corrected:
                _correct(copy.graph, edit, value, mean, bias, in_the_run)
    return copy


def _correct(graph: ir.Graph, edit: Edit, value: ir.Value, mean: ir.Value, bias: Bias, in_the_run: ir.Value) -> None:
    """Give to all readers of a value what its bias would make of it, moved."""
    wanted, move = _vector(_wanted(bias.before), bias.size), _vector(_move(bias.before), bias.size)
    graph.inputs.extend([wanted, move])
    off = edit.op("Mul", edit.op("Sub", wanted, mean), in_the_run)
    shift = edit.op("Cast", edit.op("Add", off, move), to=bias.tensor.dtype)
    moved = edit.op("Add", value, shift)
    moved.type, moved.shape = value.type, value.shape
    name, value.name = value.name, f"{value.name}.unmoved"
    moved.name = name
    value.replace_all_uses_with(moved, replace_graph_outputs=True)
    first, last = edit.made[0], edit.made[-1]
    for reader in (first, last):  # these read it as it was
        reader.replace_input_with(0, value)


def _vector(name: str, size: int) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([size]))


def _switch(state: int) -> npt.NDArray[np.float32]:
    return np.array([state], np.float32)


def _mean(name: str) -> str:
    return f"{name}.mean"


def _wanted(name: str) -> str:
    return f"{name}.wanted_mean"


def _move(name: str) -> str:
    return f"{name}.move"
