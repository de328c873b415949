"""Candidates: built from the model in a temporary folder, measured side by side, and gone."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx_ir as ir

from bct_onnx import registry
from bct_onnx.base import EXACT, Applied, Declined, Pass, Site
from bct_onnx.course import Course
from bct_onnx.graph import tensors
from bct_onnx.graph.atomic import scratch
from bct_onnx.graph.inventory import PARAMETERS, Inventory, inventory
from bct_onnx.graph.load import load, size
from bct_onnx.graph.names import names_of, without
from bct_onnx.graph.save import save
from bct_onnx.progress import Progress
from bct_onnx.refusals import refuse_quantized
from bct_onnx.rewriting import DEFAULT_PRESET
from bct_onnx.study.comparison import Comparison, Figures, Measuring

TOGETHER = 1 << 29
"""Bytes of candidates that are loaded at a time, at least one: the reference runs once for all of them."""


@dataclasses.dataclass(frozen=True)
class Ran:
    """One pass that ran, and what it said."""

    graph_pass: Pass
    sites: tuple[Site, ...]
    declined: tuple[Declined, ...]

    @property
    def is_lossy(self) -> bool:
        """Whether the pass may move the outputs."""
        return self.graph_pass.promise != EXACT


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model with something changed, on disk.

    Attributes:
        name: Unique within a study.
        file: Where it lies until it is measured.
        ran: The passes that made it, those that all candidates share and the lowering left out.
        inventory: What it is made of; parameters are those of the model as it came.
    """

    name: str
    file: Path
    ran: tuple[Ran, ...]
    inventory: Inventory


class Study:
    """A model and what it takes to try things out on it. Use `open_study`, which cleans up."""

    def __init__(
        self,
        source: Path,
        target: str,
        comparison: Comparison,
        folder: Path,
        progress: Progress,
        cache: Path | None = None,
    ) -> None:
        self.source, self.target, self.comparison, self.progress = source, target, comparison, progress
        self._cache = cache
        self.lowering = tuple(registry.lowering(target))
        self._folder = folder
        self._prepared: tuple[tuple[Pass, ...], ir.Model] | None = None

    def without_lowering(self, pipeline: Iterable[Pass]) -> tuple[Pass, ...]:
        """The passes of a pipeline that are not the target's own."""
        return tuple(without(pipeline, names_of(self.lowering)))

    def prepared(self, passes: Iterable[Pass]) -> ir.Model:
        """The model after these exact passes, to be changed: the last one made is kept, as calibration takes time."""
        exact = tuple(passes)
        done, model = self._prepared or ((), None)
        if model is None or exact[: len(done)] != done:
            done, model = (), load(self.source)
            model.metadata_props[PARAMETERS] = str(inventory(model).parameters)
        if exact != done:
            model = model.clone()
            for graph_pass in exact[len(done) :]:
                run_pass(graph_pass, model)
            model.metadata_props[PARAMETERS] = str(_parameters(model))
            self._prepared = exact, model
        return model.clone()

    def course(self, passes: Iterable[Pass], at: int) -> Course:
        """What the pass with number ``at`` may know: the target's passes follow those given."""
        every = (*passes, *self.lowering)
        parameters = int(self.prepared(every[:at]).metadata_props[PARAMETERS])
        return Course(every, at, parameters, self.source, self._cache)

    def build(self, name: str, model: ir.Model, passes: Iterable[Pass] = ()) -> Candidate:
        """Run ``passes`` and the lowering on ``model``, which is changed, and write it."""
        ran = tuple(run_pass(graph_pass, model) for graph_pass in passes)
        for graph_pass in self.lowering:
            run_pass(graph_pass, model)
        home = Path(tempfile.mkdtemp(dir=self._folder))
        save(model, home / "model.onnx")
        return Candidate(name, home / "model.onnx", ran, inventory(model))

    def measured(self, candidates: Iterable[Candidate]) -> Iterator[tuple[Candidate, Figures]]:
        """Each candidate with its figures; the file is gone then."""
        waiting: list[Candidate] = []
        total = 0
        for candidate in candidates:
            nbytes = size(candidate.file)
            if waiting and total + nbytes > TOGETHER:
                yield from self._measure(waiting)
                waiting, total = [], 0
            waiting.append(candidate)
            total += nbytes
        yield from self._measure(waiting)

    def _measure(self, candidates: list[Candidate]) -> Iterator[tuple[Candidate, Figures]]:
        figures = self.comparison.measure({candidate.name: candidate.file for candidate in candidates})
        for candidate in candidates:
            shutil.rmtree(candidate.file.parent)
            yield candidate, figures[candidate.name]


@contextlib.contextmanager
def open_study(
    source: Path, target: str, measuring: Measuring, progress: Progress, cache: Path | None = None
) -> Iterator[Study]:
    """Open a study of the model at ``source``; what it writes lies in a temporary folder and is gone at the end.

    ``cache`` is the folder of measurements that are kept.

    Raises:
        InputModelError: The model cannot be used, or is quantized already.
        UsageError: The target is not known.
        TargetError: ONNX Runtime cannot run the model.
    """
    with scratch("sensitivity") as folder, tensors.Spool(folder):
        registry.lowering(target)
        model = load(source)
        refuse_quantized(model, registry.preset(DEFAULT_PRESET))
        comparison = Comparison(source, model, measuring, progress)
        yield Study(source, target, comparison, folder, progress, cache)


def run_pass(graph_pass: Pass, model: ir.Model) -> Ran:
    """Run one pass on ``model`` in place."""
    applied = graph_pass(model)
    assert isinstance(applied, Applied)
    return Ran(graph_pass, applied.sites, applied.declined)


def _parameters(model: ir.Model) -> int:
    """Parameters of the model as it came, each once: exporters store tied weights twice, and lifting undoes that."""
    return min(int(model.metadata_props.pop(PARAMETERS)), inventory(model).parameters)
