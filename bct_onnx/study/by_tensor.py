"""What quantizing each tensor costs: by itself, in what it is multiplied by, and in the outputs, all else in float."""

from __future__ import annotations

import dataclasses
import glob
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from bct_onnx.base import Pass
from bct_onnx.errors import GateError
from bct_onnx.graph import tensors
from bct_onnx.graph.names import names_of
from bct_onnx.graph.neighbours import readers_of
from bct_onnx.pipeline import Pipeline, split
from bct_onnx.quant import Error, jobs, mixed
from bct_onnx.quant.strips import slices
from bct_onnx.storable import Storable
from bct_onnx.storing import CompressingPass, StoringPass
from bct_onnx.study.candidates import Candidate, Study
from bct_onnx.study.result import Row, Sensitivity, Weight

COLUMNS = 1024
"""Columns of a weight that are multiplied by XᵀX at a time."""


def by_tensor(study: Study, pipeline: Pipeline, top: int | None = None) -> Sensitivity:
    """Quantize every tensor that a pipeline stores in few bits alone, activations and all else in float.

    Args:
        study: The model and how to measure; nothing is timed.
        pipeline: Its exact passes and those that store tensors are run.
        top: Only the effect of so many tensors on the outputs is measured, those of the largest weighted error.

    Raises:
        GateError: The pipeline stores no tensor of this model in few bits.
    """
    exact, rest = split(study.without_lowering(pipeline))
    storing = [graph_pass for graph_pass in rest if isinstance(graph_pass, StoringPass)]
    study.progress("all tensors", 0, 0)
    rows = _stored(study, exact, storing)
    if not rows:
        raise GateError("no tensor is quantized", where=str(study.source), why=f"by the pipeline {pipeline}")
    worst = sorted(rows.values(), key=_weighted_db)[:top]
    for candidate, figures in study.measured(_built(study, exact, storing, names_of(worst), rows)):
        rows[candidate.name] = dataclasses.replace(rows[candidate.name], figures=figures)
    ordered = sorted(sorted(rows.values(), key=_weighted_db), key=_goodness)
    return Sensitivity("tensor", study.target, tuple(ordered), (), study.comparison)


def _built(
    study: Study, exact: Sequence[Pass], storing: Sequence[Pass], names: Sequence[str], every: Iterable[str]
) -> Iterator[Candidate]:
    """One candidate per tensor: every other one is kept."""
    for number, name in enumerate(names):
        study.progress(name, number, len(names))
        yield study.build(name, study.prepared(exact), alone(storing, name, every))


def alone(passes: Iterable[Pass], name: str, every: Iterable[str]) -> list[Pass]:
    """The passes with all tensors kept but the one of a name."""
    others = tuple(glob.escape(other) for other in every if other != name)
    changed: list[Pass] = []
    for graph_pass in passes:
        if isinstance(graph_pass, CompressingPass):
            changed.append(graph_pass.replace(keep=(*graph_pass.keep, *others)))
        else:
            changed.append(graph_pass)
    return changed


def _stored(study: Study, exact: Sequence[Pass], storing: Sequence[StoringPass]) -> dict[str, Row]:
    """All tensors that the passes store, by name, their effect not measured; those inside subgraphs are left out."""
    model, stored = study.prepared(exact), dict[str, Row]()
    for graph_pass in storing:
        parts: dict[str, list[Storable]] = {}  # ranges of rows of a table may be stored apart
        for tensor in graph_pass.storables(model):
            if tensor.value.graph is model.graph:
                parts.setdefault(tensor.name, []).append(tensor)
        for number, (name, ranges) in enumerate(parts.items()):
            study.progress(name, number, len(parts))
            if name not in stored:
                by, weight = graph_pass.name, _weight(ranges)
                text = f"{by}: {_scheme(ranges)}"
                stored[name] = Row(name, text, 1, {by: 1}, (), 32 / weight.bits, None, weight=weight)
    return stored


def _scheme(ranges: Sequence[Storable]) -> str:
    """How a tensor is stored, in words."""
    if ranges[0].widths is not None:
        return mixed.describe(ranges[0].widths)
    schemes = [str(tensor.job.scheme) for tensor in ranges]
    return ", ".join([*schemes, "tied output layer"] if ranges[0].is_tied else schemes)


def _weight(ranges: Sequence[Storable]) -> Weight:
    """The error of a tensor as its pass stores it."""
    error, weighted, nbytes = Error(), Error(), 0
    for tensor in ranges:
        if tensor.widths is not None:
            rows = mixed.quantize(tensor.matrix().T, tensor.widths, tensor.job.scheme)
            error, weighted = error + rows.error, weighted + rows.error
            nbytes += mixed.nbytes(tensor.widths, tensor.shape[0])
            continue
        result = jobs.run(dataclasses.replace(tensor.job, packed=None))
        error += result.error
        weighted += _weighted(tensor, result)
        nbytes += result.blocks.nbytes
    value = ranges[0].value
    assert value.const_value is not None  # it is an initializer
    shape, user = tuple(value.const_value.shape.numpy()), readers_of(value)[0]
    tensors.release(value)
    bits = 8 * nbytes / math.prod(shape)
    return Weight(shape, user.name or user.op_type, bits, error.sqnr_db, weighted.sqnr_db)


def _weighted(tensor: Storable, result: jobs.Quantized) -> Error:
    """The error of the product by the statistics of its input: XᵀX, or its diagonal; the plain one without."""
    known, decoded = tensor.statistics, result.blocks.dequantize()
    if known is None or len(known.sum_squares) != len(decoded):
        return result.error
    exact = np.asarray(tensor.matrix(), np.float32)[:, tensor.job.rows or slice(None)]
    error = Error()
    for some in slices(exact.shape[1], COLUMNS):
        columns = exact[:, some]
        lost = columns - decoded[:, some]
        error += Error(float(known.output_power(lost).sum()), float(known.output_power(columns).sum()))
    return error


def _weighted_db(row: Row) -> tuple[float, str]:
    assert row.weight is not None  # it is a tensor
    return row.weight.weighted_db, row.name


def _goodness(row: Row) -> tuple[bool, float]:
    """What was not run comes last, what is not finite first."""
    sqnr = 0.0 if row.figures is None else row.figures.sqnr_db
    return row.figures is None, -math.inf if math.isnan(sqnr) else sqnr
