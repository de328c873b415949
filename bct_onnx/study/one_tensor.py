"""Everything that is known of one tensor: its values, what it is multiplied by, and what each format would cost."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import onnx_ir as ir

from bct_onnx.base import Declined, Pass, Site
from bct_onnx.errors import GateError, UsageError
from bct_onnx.figures import as_dict, finite_of
from bct_onnx.forms.linear import linears
from bct_onnx.graph import tensors
from bct_onnx.graph.inventory import inventory
from bct_onnx.graph.known import rank_of
from bct_onnx.graph.names import by_name, names_of
from bct_onnx.graph.neighbours import is_read_by, op_types, operands_at, outputs_of, provided, readers_of
from bct_onnx.pipeline import Pipeline, split
from bct_onnx.runtime.statistics import ChannelStatistics, measured
from bct_onnx.storing import CompressingPass, StoringPass
from bct_onnx.study.by_tensor import alone, by_tensor
from bct_onnx.study.candidates import Ran, Study, run_pass
from bct_onnx.study.distribution import Spread, of_channels, of_values
from bct_onnx.study.naming import find, users_of
from bct_onnx.study.result import Row

FORMATS = tuple(itertools.product((2, 3, 4, 8), (32, 64)))
"""Bits and blocks that are tried."""


@dataclasses.dataclass(frozen=True)
class Said:
    """What one pass says of the tensor, or of a value next to it.

    Attributes:
        by: The pass.
        name: Of the tensor or value.
        text: What was done, or why it was not.
        changed: Whether anything was done.
    """

    by: str
    name: str
    text: str
    changed: bool


@dataclasses.dataclass(frozen=True)
class Explanation:
    """One tensor.

    Attributes:
        name: Of the initializer, in the lifted graph.
        kind: As in an inventory: matmul, embedding, norm, bias, other.
        dtype: ONNX type name.
        shape: As it is stored.
        nbytes: As it is stored.
        share: Part of the bytes of all parameters.
        users: Operator and name of each node that uses it.
        axes: What its two axes stand for; empty where that is not known.
        exported: Its values in the model.
        prepared: Its values after the exact passes that move outliers: what is quantized. None where nothing moved.
        source: Name of the value that it is multiplied by; empty where there is none.
        measured: That value, in calibration; None where nothing was measured.
        moved: The same after the exact passes that move outliers; None where nothing moved.
        said: What passes say, in running order.
        stored: What the pipeline makes of it while all else stays float, as a study by tensor has it; None if it stays
            float too.
        trials: The same of other formats; empty where the pipeline has none for such a tensor.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    share: float
    users: tuple[tuple[str, str], ...]
    axes: tuple[str, ...]
    exported: Spread
    prepared: Spread | None
    source: str
    measured: Spread | None
    moved: Spread | None
    said: tuple[Said, ...]
    stored: Row | None
    trials: tuple[Row, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        figures = dict(vars(self))
        for key in ("exported", "prepared", "measured", "moved"):
            figures[key] = as_dict(figures[key])
        figures["users"] = [{"operator": operator, "name": name} for operator, name in self.users]
        figures["said"] = list(map(dataclasses.asdict, self.said))
        figures["stored"] = None if self.stored is None else _figures(self.stored)
        figures["trials"] = list(map(_figures, self.trials))
        return figures


def _figures(row: Row) -> dict[str, Any]:
    weight, outputs = row.weight, row.figures
    assert weight is not None and outputs is not None  # it is a row of a tensor, and was run
    own = finite_of(weight, "sqnr_db", "weighted_db")
    return {"format": row.text, "bits_per_weight": weight.bits, **own, "outputs": outputs.as_dict()}


def explain(study: Study, pipeline: Pipeline, name: str, formats: Sequence[tuple[int, int]] = FORMATS) -> Explanation:
    """Look at one tensor from all sides.

    Args:
        study: The model and how to measure its outputs.
        pipeline: Its exact passes prepare the model, and its formats are varied in bits and block.
        name: Of a tensor or of a node that uses it, or a pattern or part of such a name; a matrix goes before the
            biases and the like that it fits as well.
        formats: Bits and blocks to try.

    Raises:
        UsageError: There is no such tensor, or more than one.
    """
    exact, rest = split(study.without_lowering(pipeline))
    at = next((number for number, graph_pass in enumerate(exact) if graph_pass.name == "calibrate"), len(exact))
    name = find(study.prepared(exact[:at]), name)
    before = study.prepared(exact[: at + 1])
    prepared = before.clone()
    ran = [run_pass(graph_pass, prepared) for graph_pass in exact[at + 1 :]]
    after = prepared.clone()
    study.progress(name, 0, len(formats))
    every = prepared.graph.initializers
    ran += [run_pass(graph_pass, after) for graph_pass in alone(rest, name, every)]
    storing = [each for each in rest if isinstance(each, StoringPass)]
    stored = _row(study, exact, alone(storing, name, every), name)
    storable = any(isinstance(run.graph_pass, StoringPass) and name in names_of(_places(run)) for run in ran)
    trials = tuple(_trials(study, exact, storing, name, formats)) if storable else ()
    value = before.graph.initializers[name]
    remarks = tuple(_said(ran, name, _beside(value)))
    return _described(before, value, prepared.graph.initializers.get(name), remarks, stored, trials)


def _row(study: Study, exact: Sequence[Pass], storing: Sequence[Pass], name: str) -> Row | None:
    """What a study by tensor finds of this one; None if the passes do not store it."""
    with contextlib.suppress(GateError):
        return by_name(by_tensor(study, Pipeline((*exact, *storing))).rows).get(name)
    return None


def _trials(
    study: Study, exact: Sequence[Pass], storing: Sequence[Pass], name: str, formats: Sequence[tuple[int, int]]
) -> Iterator[Row]:
    """One for each format that the passes have, with all their other options as they are."""
    last: tuple[int, float] | None = None
    for number, (bits, block) in enumerate(formats):
        study.progress(f"{name} {bits}/{block}", number, len(formats))
        with contextlib.suppress(UsageError):  # some bits do not go with zero points
            entries = (f"{bits}/{block}:{name}", "32:*")
            row = _row(study, exact, [each.replace(formats=entries, keep=(), minimum=1) for each in storing], name)
            if row is not None and (bits, row.ratio) != last:  # else one block holds all, or there are none
                yield row
                last = bits, row.ratio


def _places(ran: Ran) -> list[Site | Declined]:
    return [*ran.sites, *ran.declined]


def _beside(value: ir.Value) -> set[str]:
    """Names of the values that go into and come out of the nodes that use a tensor, a bias after them included."""
    nodes = list(users_of(value))
    for node in list(nodes):
        readers = readers_of(node.outputs[0])
        if op_types(readers) == ("Add",):
            nodes += readers
    values = provided((*operands_at(nodes, 0), *outputs_of(nodes)))
    return set(names_of(itertools.filterfalse(ir.Value.is_initializer, values)))


def _said(ran: Iterable[Ran], name: str, beside: Collection[str]) -> Iterator[Said]:
    for run in ran:
        near = () if isinstance(run.graph_pass, CompressingPass) else beside  # we keep others, which is nothing to tell
        for place in _places(run):
            if place.name == name or any(f"{place.name}.".startswith(f"{each}.") for each in near):
                text = place.note if isinstance(place, Site) else place.reason
                yield Said(run.graph_pass.name, place.name, text, isinstance(place, Site))


def _described(
    model: ir.Model,
    value: ir.Value,
    prepared: ir.Value | None,
    remarks: tuple[Said, ...],
    stored: Row | None,
    trials: tuple[Row, ...],
) -> Explanation:
    parameters = inventory(model)
    parameter = by_name(parameters.weights)[value.name or ""]
    before, after = _source(value), None if prepared is None else _source(prepared)
    return Explanation(
        name=parameter.name,
        kind=parameter.kind,
        dtype=parameter.dtype,
        shape=tuple(value.const_value.shape.numpy()) if value.const_value is not None else (),
        nbytes=parameter.nbytes,
        share=parameter.nbytes / parameters.nbytes,
        users=tuple((node.op_type, node.name or "") for node in users_of(value)),
        axes=_axes(value),
        exported=_spread(value),
        prepared=_spread(prepared) if prepared is not None and prepared.const_value is not value.const_value else None,
        source=before.name or "" if before is not None else "",
        measured=_measured(before),
        moved=_measured(after) if _statistics(after) is not _statistics(before) else None,
        said=remarks,
        stored=stored,
        trials=trials,
    )


def _spread(value: ir.Value) -> Spread:
    spread = of_values(tensors.array(value))
    tensors.release(value)
    return spread


def _source(value: ir.Value) -> ir.Value | None:
    """What a tensor is multiplied by."""
    layer = next(linears(value), None)
    if layer is None or layer.node.inputs[0] is value:
        return None
    return layer.node.inputs[0]


def _statistics(value: ir.Value | None) -> ChannelStatistics | None:
    statistics = measured(value)
    if statistics is not None and statistics.rows:
        return statistics
    return None


def _measured(value: ir.Value | None) -> Spread | None:
    statistics = _statistics(value)
    if statistics is None:
        return None
    return of_channels(statistics)


def _axes(value: ir.Value) -> tuple[str, ...]:
    if rank_of(value) != 2:
        return ()
    if is_read_by(value, "Gather"):
        return "rows", "channels"
    layer = next(linears(value), None)
    if layer is None or layer.node.inputs[0] is value:
        return ()
    if layer.transposed:
        return ("outputs", "inputs")
    return ("inputs", "outputs")
