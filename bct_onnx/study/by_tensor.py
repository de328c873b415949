"""What quantizing each tensor costs: by itself, in what it is multiplied by, and in the outputs, all else in float."""

from __future__ import annotations

import dataclasses
import glob
import math
from collections.abc import Container, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.base import Pass
from bct_onnx.errors import GateError
from bct_onnx.forms.linear import linears
from bct_onnx.graph import tensors
from bct_onnx.pipeline import Pipeline, split
from bct_onnx.quant import Error
from bct_onnx.runtime.session import run, session
from bct_onnx.runtime.statistics import KEY, ChannelStatistics
from bct_onnx.study.candidates import Candidate, Study, run_pass
from bct_onnx.study.reference import Figures
from bct_onnx.study.result import Row, Sensitivity, Weight

Matrix = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class _Stored:
    """A tensor that the pipeline quantizes."""

    name: str
    by: Pass
    note: str
    weight: Weight


def by_tensor(study: Study, pipeline: Pipeline, top: int | None = None) -> Sensitivity:
    """Quantize every tensor that a pipeline stores in few bits alone, activations and all else in float.

    Args:
        study: The model and how to measure; nothing is timed.
        pipeline: Its exact passes and those that store tensors in few bits (options ``bits`` and ``keep``) are run.
        top: Only the effect of so many tensors on the outputs is measured, those of the largest weighted error.

    Raises:
        GateError: The pipeline stores no tensor of this model in few bits.
    """
    exact, rest = split(study.without_lowering(pipeline))
    storing = [one for one in rest if {"bits", "keep"} <= {field.name for field in dataclasses.fields(one)}]
    study.progress("all tensors", 0, 0)
    stored = sorted(_stored(study, exact, storing), key=lambda one: (one.weight.weighted_db, one.name))
    if not stored:
        raise GateError("no tensor is quantized", where=str(study.source), why=f"by the pipeline {pipeline}")
    found = {one.name: figures for one, figures in study.measured(_built(study, exact, storing, stored, top))}
    rows = [_row(one, found.get(one.name)) for one in stored]
    rows.sort(key=_goodness)  # stable
    return Sensitivity("tensor", study.target, tuple(rows), (), study.reference)


def _built(
    study: Study, exact: Sequence[Pass], storing: Sequence[Pass], stored: Sequence[_Stored], top: int | None
) -> Iterator[Candidate]:
    """One candidate per tensor: every other one is kept."""
    for number, this in enumerate(stored[:top]):
        study.progress(this.name, number, len(stored[:top]))
        others = tuple(glob.escape(one.name) for one in stored if one.name != this.name)
        options: list[dict[str, Any]] = [dict(one.options(defaults=True)) for one in storing]
        passes = [
            type(one)(**option | {"keep": (*option["keep"], *others)})
            for one, option in zip(storing, options, strict=True)
        ]
        yield study.build(this.name, study.prepared(exact), passes)


def _stored(study: Study, exact: Sequence[Pass], storing: Sequence[Pass]) -> list[_Stored]:
    """All tensors that the passes store in few bits together; those inside subgraphs are left out."""
    before, after = study.prepared(exact), study.prepared(exact)
    sites = {site.name: (one, site) for one in storing for site in run_pass(one, after).sites}
    decoded = _decoded(after, sites)
    found = []
    for number, (name, (one, site)) in enumerate(sites.items()):
        study.progress(name, number, len(sites))
        original = before.graph.initializers.get(name)
        if original is None or original.const_value is None or site.error is None:
            continue
        error = weighted = site.error
        if name in decoded:
            weighted = _weighted(_weight(original), *decoded[name], error)
        shape = tuple(original.const_value.shape.numpy())
        bits = 8 * _stored_bytes(after, name) / original.const_value.size
        weight = Weight(shape, _user(original), bits, error.sqnr_db, weighted.sqnr_db)
        found.append(_Stored(name, one, site.note, weight))
        tensors.release(original)
    return found


def _stored_bytes(model: ir.Model, name: str) -> int:
    """Bytes of the constants that stand for a tensor."""
    parts = [model.graph.initializers.get(f"{name}.{part}") for part in PARTS]
    return sum(part.const_value.nbytes for part in parts if part is not None and part.const_value is not None)


PARTS = ("codes", "multipliers", "scale", "zero_points")
"""What the constants that stand for a tensor are called, after its name and a dot."""


def _decoded(model: ir.Model, names: Container[str]) -> dict[str, tuple[ir.Model, ir.Value]]:
    """By name of the original: a model that decodes a weight [K, N], and what the weight is multiplied by."""
    found: dict[str, tuple[ir.Model, ir.Value]] = {}
    for node in model.graph:
        if node.op_type != "MatMul" or node.domain or node.inputs[0] is None or node.inputs[1] is None:
            continue
        if not tensors.is_constant_expression(node.inputs[1]):
            continue
        graph = ir.convenience.extract(model.graph, [], [node.inputs[1]])
        name = next((one.removesuffix(".codes") for one in graph.initializers if one.endswith(".codes")), "")
        if name in names and name not in found:
            functions = list(model.functions.values())
            found[name] = ir.Model(graph, ir_version=model.ir_version, functions=functions), node.inputs[0]
    return found


def _weight(original: ir.Value) -> Matrix:
    """A weight [K, N] as MatMul multiplies by it."""
    layer = next(linears(original), None)
    return np.asarray(tensors.array(original) if layer is None else layer.matrix(), np.float32)


def _weighted(exact: Matrix, decoder: ir.Model, left: ir.Value, plain: Error) -> Error:
    """The error of ``X W`` by the statistics of X: XᵀX, or its diagonal; ``plain`` where there are none."""
    statistics = left.meta.get(KEY)
    if not isinstance(statistics, ChannelStatistics) or len(statistics.sum_squares) != len(exact):
        return plain
    decoded = np.asarray(run(session(decoder, optimize="disabled"), {})[0], np.float32)
    error = Error()
    for start in range(0, exact.shape[1], COLUMNS):
        some = exact[:, start : start + COLUMNS]
        lost = some - decoded[:, start : start + COLUMNS]
        error += Error(float(statistics.output_power(lost).sum()), float(statistics.output_power(some).sum()))
    return error


COLUMNS = 1024
"""Columns of a weight that are multiplied by XᵀX at a time."""


def _user(value: ir.Value) -> str:
    return next((use.node.name or use.node.op_type for use in value.uses()), "")


def _goodness(row: Row) -> tuple[bool, float]:
    """What was not run comes last, what is not finite first."""
    sqnr = 0.0 if row.figures is None else row.figures.sqnr_db
    return row.figures is None, -math.inf if math.isnan(sqnr) else sqnr


def _row(one: _Stored, figures: Figures | None) -> Row:
    text = f"{one.by.name}: {one.note}"
    return Row(one.name, text, 1, {one.by.name: 1}, (), 32 / one.weight.bits, figures, weight=one.weight)
