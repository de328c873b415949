"""What a plan is measured on: sequences of the calibration data that calibrate itself does not read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.base import Pass
from bct_onnx.planning.stored import CALIBRATED, Tensor
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.inputs import inputs_of
from bct_onnx.runtime.session import run, session
from bct_onnx.runtime.understanding import Sampler
from bct_onnx.tasks.calibration import Samples, read_samples

TEXT, RANDOM = 128, 64
"""Tokens per sequence of the user's data, at most, and of random ones."""

BATCH = 4
"""Sequences per run: small, so that there are several runs, each with errors of its own (see `measure`)."""

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
    """

    batches: tuple[Feeds, ...]
    source: str
    everything: Samples | None


def read(model: ir.Model, passes: Sequence[Pass], count: int) -> Data:
    """Sequences for a model by the options of its calibrate pass; random tokens without one.

    Calibrate takes its samples evenly from the data; of twice as many, every second is none of them.

    Args:
        model: The float model.
        passes: The pipeline.
        count: Sequences to measure noise on.

    Raises:
        UsageError: The data cannot be read.
        TargetError: The model does not run on random tokens.
    """
    calibrate = next((one for one in passes if one.name == "calibrate"), None)
    options: Mapping[str, Any] = {} if calibrate is None else dict(calibrate.options(defaults=True))
    wanted = options.get("sequence") or (TEXT if options.get("data") else RANDOM)
    sampler = Sampler(model, session(model))
    length = sampler.longest(wanted)
    if not options.get("data"):
        seed = int(options.get("seed", 0)) + SEED
        starts = range(0, count, BATCH)
        feeds = (sampler.sample(BATCH, length, seed=seed + at) for at in starts)
        return Data(tuple(feeds), "random tokens", None)
    others = _from_file(model, options, 2 * (int(options["samples"]) or CALIBRATED), length)
    rows = others.rows[1::2] or others.rows
    chosen = [rows[n * len(rows) // min(count, len(rows))] for n in range(min(count, len(rows)))]
    batches = tuple(dataclasses.replace(others, rows=tuple(chosen)).batches(BATCH))
    source = f"{len(chosen)} rows of {Path(options['data']).name} that calibrate did not read"
    return Data(batches, source, _from_file(model, options, COUNTED, length))


def counts(model: ir.Model, tables: Sequence[Tensor], batches: Iterator[Feeds]) -> dict[str, Counts]:
    """How often each row of each table is looked up, [rows] by the table's name; nothing else of the model is run."""
    wanted = {table.name: _indices(table) for table in tables}
    total = {table.name: np.zeros(table.shape[1], np.int64) for table in tables}
    computed = [value for value in dict.fromkeys(v for values in wanted.values() for v in values) if value.producer()]
    runner = None
    if computed:
        graph = ir.convenience.extract(model.graph, list(model.graph.inputs), computed)
        functions = list(model.functions.values())
        runner = session(ir.Model(graph, ir_version=model.ir_version, functions=functions))
    for feeds in batches:
        names = [value.name or "" for value in computed]
        found: Feeds = {} if runner is None else dict(zip(names, run(runner, feeds), strict=True))
        known = {**feeds, **found}
        for name, values in wanted.items():
            for value in values:
                if value.name in known:
                    rows = np.asarray(known[value.name]).ravel() % len(total[name])
                    total[name] += np.bincount(rows, minlength=len(total[name]))
    return total


def _indices(table: Tensor) -> list[ir.Value]:
    """What rows of a table are looked up by."""
    users = (use.node for use in table.value.uses())
    return [node.inputs[1] for node in users if node.op_type == "Gather" and node.inputs[1] is not None]


def _from_file(model: ir.Model, options: Mapping[str, Any], limit: int, length: int) -> Samples:
    folder = options.get("tokenizer")
    return read_samples(
        Path(options["data"]),
        inputs_of(model),
        tokenizer=Path(folder) if folder else None,
        columns=options["column"],
        limit=limit,
        length=length,
    )
