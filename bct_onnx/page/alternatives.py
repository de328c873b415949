"""The same model in other numbers of bits, each made and run: the sizes it could have, and what they cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from bct_onnx import registry
from bct_onnx.errors import GateError, TargetError, UsageError
from bct_onnx.graph.load import load
from bct_onnx.progress import Progress
from bct_onnx.reference import Reference
from bct_onnx.report import Report
from bct_onnx.rewriting import Options, rewrite

LIMIT = 1 << 28
"""Bytes of the source from which on this would take minutes."""

BITS = (8, 4, 3, 2)
_PIPELINE = "quantize-embeddings{{bits={bits}}},quantize-weights{{bits={bits}}},{activations}small-parameters"
_ACTIVATIONS = "quantize-activations,"


@dataclasses.dataclass(frozen=True)
class Alternative:
    """A model that was made in memory.

    Attributes:
        bits: Of its weights.
        nbytes: Of the file it would be.
        sqnr_db: Of the worst output.
        faster: Times faster than the source; None where nothing was timed.
    """

    bits: int
    nbytes: int
    sqnr_db: float
    faster: float | None


def alternatives(source: Path, reference: Reference, target: str, progress: Progress) -> Iterator[Alternative]:
    """Weights of 8 to 2 bits, rounded to nearest without calibration; none of a model above `LIMIT`.

    The model is lifted once; each alternative stores a copy of it and is compared with the ``reference``.
    """
    if source.stat().st_size > LIMIT:
        return
    model = load(source)
    for graph_pass in registry.parse("lift"):
        graph_pass(model)
    for number, bits in enumerate(BITS):
        progress(f"{bits}-bit weights, for comparison", number, len(BITS))
        report = _rewritten(model, target, bits, Options(accept=True, reference=reference))
        if report is None or report.parity is None:
            continue
        faster = None
        for timing in report.speeds:
            faster = timing.before_ms / timing.after_ms
        yield Alternative(bits, report.file_bytes[1], report.parity.worst[1].sqnr_db, faster)


def _rewritten(lifted: ir.Model, target: str, bits: int, options: Options) -> Report | None:
    """With 8-bit activations where the target takes them; None where such a model cannot be made."""
    for activations in (_ACTIVATIONS, ""):
        try:
            pipeline = _PIPELINE.format(bits=bits, activations=activations)
            return rewrite(lifted.clone(), pipeline, target=target, options=options)
        except TargetError:
            continue
        except (GateError, UsageError):
            return None
    return None
