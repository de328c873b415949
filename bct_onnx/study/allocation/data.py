"""What noise is measured on: sequences of the calibration data, or random tokens."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.graph.names import by_name, map_values, names_of
from bct_onnx.graph.neighbours import of_types, operands_at, producer, provided
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.inputs import inputs_of
from bct_onnx.runtime.partial import Partial
from bct_onnx.runtime.session import session
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
        if len(self.everything.rows) < 10:
            return dataclasses.replace(self.everything, rows=()), self.everything
        return self.everything.split(10)


def read(model: ir.Model, count: int, *, together: bool = False) -> Data:
    """Sequences for a model from what calibrate was given; random tokens where it was given nothing, or did not run.

    Calibrate takes its samples evenly from the data; of twice as many, every second is none of them.

    Args:
        model: The float model.
        count: Sequences to measure noise on.
        together: Whether the user's are to be of one length, where there are enough of one, and run at once: short ones
            take half as long.

    Raises:
        UsageError: The data cannot be read.
        TargetError: The model does not run on random tokens.
    """
    given = CalibrationData.of(model)
    sampler = Sampler(model, session(model))
    if given.file is None:
        length = sampler.longest(given.sequence or RANDOM)
        seeds = range(given.seed + SEED, given.seed + SEED + count, BATCH)
        return Data(tuple(sampler.samples(BATCH, length, seeds)), "random tokens", None)
    length, inputs = sampler.longest(given.sequence or TEXT), inputs_of(model)
    samples = given.read(inputs, 2 * given.samples or READ, length)
    rows: Sequence[Feeds] = samples.rows[1::2] or samples.rows
    if together and rows:
        rows = _alike(rows, count)
    count = min(count, len(rows))
    chosen = tuple(evenly(rows, count))
    batches = tuple(dataclasses.replace(samples, rows=chosen).batches(count if together else BATCH))
    everything = given.read(inputs, COUNTED, length)
    return Data(batches, f"{count} rows of {given.file.name}", everything, given.file == own_text.FILE)


def _alike(rows: Sequence[Feeds], count: int) -> Sequence[Feeds]:
    """The rows whose arrays have the shapes that most rows have; all of them where not so many have the same.

    >>> rows = [{"ids": np.zeros(length)} for length in (3, 5, 5, 4, 4, 4)]
    >>> [len(row["ids"]) for row in _alike(rows, 2)], len(_alike(rows, 4))
    ([4, 4, 4], 6)
    """
    groups: dict[tuple[tuple[int, ...], ...], list[Feeds]] = {}
    for row in rows:
        groups.setdefault(tuple(array.shape for array in row.values()), []).append(row)
    largest = max(groups.values(), key=len)
    if len(largest) < count:
        return rows
    return largest


def counts(model: ir.Model, tables: Sequence[ir.Value], batches: Iterable[Feeds]) -> dict[str, Counts]:
    """How often each row of each table is looked up, [rows] by the table's name; nothing else of the model is run."""
    indices = map_values(_indices, by_name(tables))
    total = map_values(_none, by_name(tables))
    partial = Partial(model, names_of(filter(producer, itertools.chain.from_iterable(indices.values()))))
    for feeds in batches:
        known = {**feeds, **partial(feeds)}
        for name, values in indices.items():
            for value in values:
                if value.name in known:
                    rows = np.asarray(known[value.name]).ravel() % len(total[name])
                    total[name] += np.bincount(rows, minlength=len(total[name]))
    return total


def _none(table: ir.Value) -> Counts:
    """No lookups of any of its rows, [rows]."""
    assert table.const_value is not None  # a table is an initializer
    return np.zeros(table.const_value.shape.numpy()[0], np.int64)


def _indices(table: ir.Value) -> list[ir.Value]:
    """What rows of a table are looked up by."""
    return provided(operands_at(of_types(table.consumers(), "Gather"), 1))
