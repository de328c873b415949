"""Which encoders of the matrix run without padding: ``python -m models.padding --cache DIR``.

Each export is lifted, with and without `remove-padding`, and both are run on padded batches: the table has the largest
difference at real tokens, or why a family keeps its padding.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir

from bct_onnx import registry
from bct_onnx.base import Stage
from bct_onnx.errors import BctError
from bct_onnx.graph.load import load
from bct_onnx.graph.padding.record import Removed
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.session import run, session
from bct_onnx.runtime.understanding import Sampler
from models.matrix.exports import files
from models.matrix.families import FAMILIES

EXPORTERS = ("optimum", "dynamo-23", "dynamo-18", "legacy")
"""Tried in this order, until one has written the family and lost its padding."""

BATCHES = ((1, 7), (4, 16), (11, 32))
SIDES = ("right", "left", "holes")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder of the exports")
    parser.add_argument("family", nargs="*", help="some families; all that take a mask by default")
    asked = parser.parse_args()
    masked = [name for name, family in FAMILIES.items() if "attention_mask" in family.takes]
    print("| family | exporter | without padding | largest difference at real tokens |")
    print("|---|---|---|---|")
    for name in asked.family or masked:
        print(_row(asked.cache, name), flush=True)


def _row(cache: Path, name: str) -> str:
    reasons: list[str] = []
    for exporter in EXPORTERS:
        exports = files(cache, name, exporter, "fp32")
        if isinstance(exports, str):
            reasons.append(exports)
            continue
        reason, share, difference = _tried(exports[0])
        if not reason:
            return f"| {name} | {exporter} | {share} | {difference:.1e} |"
        reasons.insert(0, reason)
    return f"| {name} | | no: {reasons[0]} | |"


def _tried(file: Path) -> tuple[str, str, float]:
    """Why a file keeps its padding, or what was done and the largest difference at real tokens."""
    try:
        model = load(file)
        for each in registry.complete("lift", "ort-cpu"):
            if each.stage is not Stage.PACK:
                each(model)
        before = model.clone()
        applied = registry.PASSES["remove-padding"]()(model)
        if not applied.sites:
            return "; ".join(each.reason for each in applied.declined), "", 0.0
        return "", applied.sites[0].note, _difference(before, model)
    except BctError as error:
        return f"{error.what}: {error.why}", "", 0.0


def _difference(before: ir.Model, after: ir.Model) -> float:
    removed = Removed.of(after.metadata_props)
    assert removed is not None
    first, second = session(before), session(after)
    names = [output.name for output in first.get_outputs()]
    most = 0.0
    for feeds in _feeds(before, removed):
        pairs = [removed.real(run(each, feeds), feeds, names) for each in (first, second)]
        for wanted, given in zip(*pairs, strict=True):
            most = max(most, float(np.abs(np.subtract(wanted, given)).max(initial=0.0)))
    return most


def _feeds(model: ir.Model, removed: Removed) -> Iterator[Feeds]:
    sampler = Sampler(model, session(model))
    for seed, (batch, length) in enumerate(BATCHES):
        sample = sampler.sample(batch, length, seed=seed, padding=False)
        for side in SIDES[::2] if removed.reads else SIDES:  # the first position, which is read, is real
            real = _real(sample[removed.mask].shape, side, seed)
            mask = ~real if removed.hides else real
            yield sample | {removed.mask: mask.astype(sample[removed.mask].dtype)}


def _real(shape: tuple[int, ...], side: str, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    random = np.random.default_rng(seed)
    if side == "holes":
        real = random.random(shape) < 0.7
        real[:, 0] = True
        return real
    lengths = random.integers(1, shape[1] + 1, (shape[0], 1))
    real = np.arange(shape[1]) < lengths
    return real if side == "right" else real[:, ::-1]


if __name__ == "__main__":
    main()
