"""What noise is measured on: sequences of the calibration data, or random tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.graph.neighbours import readers_of
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.inputs import inputs_of
from bct_onnx.runtime.session import run, session
from bct_onnx.runtime.understanding import Sampler
from bct_onnx.tasks import own_text
from bct_onnx.tasks.calibration import CalibrationData
from bct_onnx.tasks.parts import evenly
from bct_onnx.tasks.samples import Samples

TEXT, RANDOM = 128, 64
"""Tokens per sequence of the user's data, at most, and of random ones."""

BATCH = 4
"""Sequences per run: small, so that there are several runs, each with errors of its own (see `noise_table`)."""

READ = 512
"""Rows of the data that sequences are taken from, every second: of so many calibrate reads others where it may
choose from more."""

COUNTED = 4096
"""Sequences whose tokens are counted for the tables."""

SEED = 1 << 20
"""Added to the seed of calibrate, so that random tokens are others."""

Counts = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Data:
    """What there is to run a model on.

    Attributes:
        batches: Sequences to measure noise on.
        source: Where they come from, in words.
        everything: All of the user's data up to `COUNTED` sequences; None without data.
        is_ours: Whether it is text of ours, as the user gave none.
    """

    batches: tuple[Feeds, ...]
    source: str
    everything: Samples | None
    is_ours: bool = False

    def split(self) -> tuple[Samples, Samples]:
        """Every tenth of the user's sequences, and the others; none and all of them where there are fewer than ten."""
        assert self.everything is not None
        rows = self.everything.rows
        if len(rows) < 10:
            return dataclasses.replace(self.everything, rows=()), self.everything
        others = tuple(row for number, row in enumerate(rows) if number % 10)
        return dataclasses.replace(self.everything, rows=rows[::10]), dataclasses.replace(self.everything, rows=others)


def read(model: ir.Model, count: int) -> Data:
    """Sequences for a model from what calibrate was given; random tokens where it was given nothing, or did not run.

    Calibrate takes its samples evenly from the data; of twice as many, every second is none of them.

    Args:
        model: The float model.
        count: Sequences to measure noise on.

    Raises:
        UsageError: The data cannot be read.
        TargetError: The model does not run on random tokens.
    """
    given = CalibrationData.of(model)
    sampler = Sampler(model, session(model))
    if given.file is None:
        length = sampler.longest(given.sequence or RANDOM)
        seeds = range(given.seed + SEED, given.seed + SEED + count, BATCH)
        batches = tuple(sampler.sample(BATCH, length, seed=seed) for seed in seeds)
        return Data(batches, "random tokens", None)
    length, inputs = sampler.longest(given.sequence or TEXT), inputs_of(model)
    samples = given.read(inputs, 2 * given.samples or READ, length)
    rows = samples.rows[1::2] or samples.rows
    count = min(count, len(rows))
    chosen = tuple(evenly(rows, count))
    batches = tuple(dataclasses.replace(samples, rows=chosen).batches(BATCH))
    everything = given.read(inputs, COUNTED, length)
    return Data(batches, f"{count} rows of {given.file.name}", everything, given.file == own_text.FILE)


def counts(model: ir.Model, tables: Sequence[ir.Value], batches: Iterable[Feeds]) -> dict[str, Counts]:
    """How often each row of each table is looked up, [rows] by the table's name; nothing else of the model is run."""
    indices = {table.name or "": _indices(table) for table in tables}
    total = {table.name or "": np.zeros(_rows(table), np.int64) for table in tables}
    computed: dict[str, ir.Value] = {}
    for values in indices.values():
        computed |= {value.name or "": value for value in values if value.producer() is not None}
    runner = None
    if computed:
        graph = ir.convenience.extract(model.graph, list(model.graph.inputs), list(computed.values()))
        functions = list(model.functions.values())
        runner = session(ir.Model(graph, ir_version=model.ir_version, functions=functions))
    for feeds in batches:
        known = dict(feeds)
        if runner is not None:
            known |= zip(computed, run(runner, feeds), strict=True)
        for name, values in indices.items():
            for value in values:
                if value.name in known:
                    rows = np.asarray(known[value.name]).ravel() % len(total[name])
                    total[name] += np.bincount(rows, minlength=len(total[name]))
    return total


def _rows(table: ir.Value) -> int:
    assert table.const_value is not None  # a table is an initializer
    return int(table.const_value.shape.numpy()[0])


def _indices(table: ir.Value) -> list[ir.Value]:
    """What rows of a table are looked up by."""
    users = readers_of(table)
    return [node.inputs[1] for node in users if node.op_type == "Gather" and node.inputs[1] is not None]
