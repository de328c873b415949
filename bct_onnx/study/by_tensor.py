"""What quantizing each tensor costs: by itself, in what it is multiplied by, and in the outputs, all else in float."""

from __future__ import annotations

import dataclasses
import glob
import math
from collections.abc import Iterator, Sequence

import numpy as np

from bct_onnx.base import Pass
from bct_onnx.errors import GateError
from bct_onnx.graph import tensors
from bct_onnx.graph.neighbours import readers_of
from bct_onnx.pipeline import Pipeline, split
from bct_onnx.quant import Error, jobs, mixed
from bct_onnx.quant.strips import slices
from bct_onnx.storable import Storable
from bct_onnx.storing import StoringPass
from bct_onnx.study.candidates import Candidate, Study
from bct_onnx.study.comparison import Figures
from bct_onnx.study.result import Row, Sensitivity, Weight

COLUMNS = 1024
"""Columns of a weight that are multiplied by XᵀX at a time."""


@dataclasses.dataclass(frozen=True)
class _Stored:
    """A tensor that the pipeline stores in few bits, as its pass stores it."""

    name: str
    by: str
    scheme: str
    weight: Weight

    def row(self, figures: Figures | None) -> Row:
        return Row(
            self.name,
            f"{self.by}: {self.scheme}",
            1,
            {self.by: 1},
            (),
            32 / self.weight.bits,
            figures,
            weight=self.weight,
        )


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
    stored = sorted(_stored(study, exact, storing), key=lambda each: (each.weight.weighted_db, each.name))
    if not stored:
        raise GateError("no tensor is quantized", where=str(study.source), why=f"by the pipeline {pipeline}")
    figures = {candidate.name: each for candidate, each in study.measured(_built(study, exact, storing, stored, top))}
    rows = sorted((each.row(figures.get(each.name)) for each in stored), key=_goodness)  # stable
    return Sensitivity("tensor", study.target, tuple(rows), (), study.comparison)


def _built(
    study: Study, exact: Sequence[Pass], storing: Sequence[StoringPass], stored: Sequence[_Stored], top: int | None
) -> Iterator[Candidate]:
    """One candidate per tensor: every other one is kept."""
    for number, tensor in enumerate(stored[:top]):
        study.progress(tensor.name, number, len(stored[:top]))
        others = tuple(glob.escape(each.name) for each in stored if each.name != tensor.name)
        passes = [graph_pass.replace(keep=(*graph_pass.keep, *others)) for graph_pass in storing]
        yield study.build(tensor.name, study.prepared(exact), passes)


def _stored(study: Study, exact: Sequence[Pass], storing: Sequence[StoringPass]) -> list[_Stored]:
    """All tensors that the passes store; those inside subgraphs are left out."""
    model, stored = study.prepared(exact), dict[str, _Stored]()
    for graph_pass in storing:
        parts: dict[str, list[Storable]] = {}  # ranges of rows of a table may be stored apart
        for tensor in graph_pass.storables(model):
            if tensor.value.graph is model.graph:
                parts.setdefault(tensor.name, []).append(tensor)
        for number, (name, ranges) in enumerate(parts.items()):
            study.progress(name, number, len(parts))
            if name not in stored:
                stored[name] = _Stored(name, graph_pass.name, _scheme(ranges), _weight(ranges))
    return list(stored.values())


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


def _goodness(row: Row) -> tuple[bool, float]:
    """What was not run comes last, what is not finite first."""
    sqnr = 0.0 if row.figures is None else row.figures.sqnr_db
    return row.figures is None, -math.inf if math.isnan(sqnr) else sqnr
