"""Changes to a pipeline by its passes' options, so that no pass has to know what it is compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from bct_onnx.pipeline import Pipeline

Options = Mapping[str, object]
ANY = "*"


@dataclasses.dataclass(frozen=True)
class Change:
    """What to do to a pipeline.

    Attributes:
        says: What there is instead, in words.
        drop: Passes that are left out.
        options: New values by pass and option; those of `ANY` go to every pass that has such an option.
        only: Change an option only where it has this value; options that are not named here are always changed.
        is_planned: Whether bits are still allotted by a plan; else all tensors get the same.
        row_widths: Whether a plan may still give rows of a table different bits.
    """

    says: str = ""
    drop: tuple[str, ...] = ()
    options: Mapping[str, Options] = dataclasses.field(default_factory=dict)
    only: Options = dataclasses.field(default_factory=dict)
    is_planned: bool = True
    row_widths: bool = True

    def has_place(self, pipeline: Pipeline) -> bool:
        """Whether there is anything to leave out."""
        return not self.is_planned or not self.row_widths or self.apply(pipeline) != pipeline

    def apply(self, pipeline: Pipeline) -> Pipeline:
        """The changed pipeline."""
        passes = []
        for graph_pass in pipeline:
            if graph_pass.name in self.drop:
                continue
            now = dict(graph_pass.options(defaults=True))
            changes = {**self.options.get(ANY, {}), **self.options.get(graph_pass.name, {})}
            changed: dict[str, object] = {}
            for name, value in changes.items():
                before = now.get(name, value)
                if before != value and before == self.only.get(name, before):
                    changed[name] = value
            passes.append(graph_pass.replace(**changed))
        return Pipeline(tuple(passes))


WITHOUT: Mapping[str, Change] = {
    "text": Change("random tokens instead of data", options={"calibrate": {"data": "", "tokenizer": "", "column": ()}}),
    "gptq": Change("codes rounded to the nearest", options={ANY: {"solver": "nearest"}}),
    "refine": Change("GPTQ alone", options={ANY: {"solver": "gptq"}}, only={"solver": "refined"}),
    "smooth": Change("no outlier channels moved into weights", drop=("smooth",)),
    "balance": Change("no outlier channels moved out of the residual stream", drop=("balance",)),
    "search": Change("scales that clip nothing", options={ANY: {"search": "max"}}),
    "allocation": Change("the same bits for all tensors", is_planned=False),
    "rows": Change("the same bits for all rows of a table", row_widths=False),
}
"""Ingredients that can be left out, by name."""

NEAREST = Change(options={ANY: {"solver": "nearest"}})
"""Rounding to the nearest code, in blocks with two-level scales of least squared error."""


def uniform(bits: int) -> Change:
    """The same bits for all weights and tables."""
    return Change(options={ANY: {"bits": bits, "formats": ()}})


def shift(bits: int, search: str) -> Change:
    """Blocks of the BCT paper: 64 x 64 values share a power of two as their scale; rows of tables have blocks of 64."""
    blocks: dict[str, Options] = {
        "quantize-weights": {"block": (64, 64), "scale": "shift", "solver": "nearest"},
        "quantize-embeddings": {"block": 64, "solver": "nearest"},
    }
    return Change(options={ANY: {"bits": bits, "formats": (), "search": search}, **blocks})


def combined(pipeline: Pipeline, *changes: Change) -> Pipeline:
    """One change after another."""
    for change in changes:
        pipeline = change.apply(pipeline)
    return pipeline
