"""How small a rewrite makes a model: the options that ask for a size, and the plan of bits per tensor behind them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from bct_onnx.cli.groups import OptionGroup
from bct_onnx.cli.options import TaskData

if TYPE_CHECKING:
    from bct_onnx.pipeline import Pipeline
    from bct_onnx.progress import Progress
    from bct_onnx.study.allocation import Allocation
    from bct_onnx.study.allocation.search import Try

PRINTED_ONLY = Path("-")
"""``--plan -``: print the plan, and write no file."""


@dataclasses.dataclass(frozen=True)
class SizeGoal(OptionGroup):
    """A size or a loss to reach by giving each tensor its own number of bits."""

    panel: ClassVar[str] = "How small (bits are chosen for each tensor)"

    target_ratio: Annotated[
        float | None, typer.Option(metavar="R", help="Parameters R times smaller than fp32, all counted.")
    ] = None
    target_bits: Annotated[
        float | None, typer.Option(metavar="B", help="Instead: B stored bits per parameter, all counted.")
    ] = None
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Instead: the smallest that loses at most X points of --task on --data (perplexity: percent).",
        ),
    ] = None
    target_sqnr: Annotated[
        float | None,
        typer.Option(
            metavar="DB",
            help="Instead: the smallest whose outputs are DB from MODEL's on --data, else on the calibration data.",
        ),
    ] = None
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="PLAN.toml",
            help="Also write which tensor gets how many bits, as a --recipe. With --dry-run nothing else is done, and "
            "'-' only prints it.",
        ),
    ] = None
    distill: Annotated[
        bool,
        typer.Option(
            "--distill",
            help="Then train what is stored by MODEL itself, on --calibrate data: worth it at 2 bits. Sizes that no "
            "formats reach cost layers and wide tables. Needs 'bct-onnx[train]'.",
        ),
    ] = False
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="With --distill: go on with what an interrupted run has left beside OUT, if any."
        ),
    ] = False
    keep_best: Annotated[
        bool,
        typer.Option(
            "--keep-best",
            help="With --distill: Ctrl-C ends the training, and its best so far is written; else nothing is.",
        ),
    ] = False
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the measurements for plans are kept.")] = None
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no measurements, and use none.")] = False

    @property
    def given(self) -> bool:
        """Whether a size or a loss was asked for."""
        return self.is_searched or self.target_ratio is not None or self.target_bits is not None

    @property
    def is_searched(self) -> bool:
        """Whether sizes are to be tried until one is good enough."""
        return self.max_drop is not None or self.target_sqnr is not None

    @property
    def folder(self) -> Path | None:
        """Where measurements are kept; None if none are."""
        from bct_onnx.study.allocation.cache import default_folder

        if self.no_cache:
            return None
        return self.cache or default_folder()

    def check(self, scored: TaskData, *, force: bool) -> None:
        """Refuse what does not go together, or cannot be written, before any work.

        Raises:
            UsageError: Two goals, a goal without what it needs, or what is of no use without one.
            OutputError: The folder of the plan does not exist.
        """
        from bct_onnx.errors import UsageError

        goals = {
            "--target-ratio": self.target_ratio,
            "--target-bits": self.target_bits,
            "--max-drop": self.max_drop,
            "--target-sqnr": self.target_sqnr,
        }
        named = [name for name, value in goals.items() if value is not None]
        if len(named) > 1:
            raise UsageError(f"{' and '.join(named)} cannot go together", fix="give one of them")
        for name, value in {"--task": scored.task, "--data": scored.data}.items():
            if self.max_drop is not None and value is None:
                raise UsageError(f"--max-drop needs {name}", fix=f"add {name}")
            if not self.is_searched and value is not None:
                raise UsageError(f"{name} is of no use without --max-drop", fix="leave it out, or add --max-drop")
        if (scored.task is None) != (scored.data is None):
            raise UsageError("--task and --data go together", fix="give both, or none of them")
        for name, is_given in {"--resume": self.resume, "--keep-best": self.keep_best}.items():
            if is_given and not self.distill:
                raise UsageError(f"{name} is of no use without --distill", fix="leave it out, or add --distill")
        if self.cache is not None and self.no_cache:
            raise UsageError("--cache and --no-cache cannot go together", fix="give one of them")
        if self.plan is None:
            return
        if not named:
            raise UsageError("a plan needs a goal", fix="add --target-ratio 10, or --target-bits, or --max-drop")
        if self.plan != PRINTED_ONLY:
            check_writable(self.plan, force=force)

    def given_to(self, pipeline: Pipeline) -> Pipeline:
        """The pipeline, with what it takes to plan sizes, and with what it stores trained where that was asked for.

        Raises:
            UsageError: It stores nothing that could be trained.
        """
        from bct_onnx.recipe import with_distilling, with_tables_measured

        if self.given:
            pipeline = with_tables_measured(pipeline)
        if not self.distill:
            return pipeline
        trained = with_distilling(pipeline, self.target_ratio or 32 / (self.target_bits or math.inf))
        if self.keep_best:
            return trained.replace({"distill": {"interrupted": "keep"}})
        return trained

    def make_plan(
        self,
        model: Path,
        pipeline: Pipeline,
        target: str,
        scored: TaskData,
        tokenizer: Path | None,
        progress: Progress,
    ) -> Planned:
        """The plan that reaches the goal."""
        from bct_onnx.recipe import with_size
        from bct_onnx.rewriting import allotted

        if not self.is_searched:
            sized = with_size(pipeline, ratio=self.target_ratio, bits=self.target_bits)
            allocation = allotted(model, sized, target, cache=self.folder, progress=progress)
            return Planned(model, pipeline, target, allocation)
        from bct_onnx.study.allocation.search import Floor, smallest
        from bct_onnx.study.candidates import open_study
        from bct_onnx.study.comparison import Measuring

        measuring = Measuring(rounds=0)
        if scored.task is not None:
            measuring = Measuring(scored.load(model, tokenizer), scored.task, scored.data or "", rounds=0)
        if self.max_drop is not None:
            floor = Floor(drop=self.max_drop)
        else:
            assert self.target_sqnr is not None  # one of them is given
            floor = Floor(sqnr_db=self.target_sqnr)
        with open_study(model, target, measuring, progress, self.folder) as study:
            tries = smallest(study, pipeline, floor)
        return Planned(model, pipeline, target, tries[-1].allocation, tuple(tries))


@dataclasses.dataclass(frozen=True)
class Planned:
    """Formats for the tensors of a model, what they were chosen for, and those whose scores led to them."""

    model: Path
    pipeline: Pipeline
    target: str
    allocation: Allocation
    tries: Sequence[Try] = ()

    def write(self, file: Path | None, *, force: bool) -> None:
        """Write the plan as a recipe, whole or not at all, where a file was given."""
        from bct_onnx.graph.atomic import publish, temporary_folder

        if file is None or file == PRINTED_ONLY:
            return
        check_writable(file, force=force)
        content = self.allocation.recipe(self.model.name, self.pipeline, self.target).encode()
        with temporary_folder(file.absolute(), len(content)) as folder:
            (folder / file.name).write_bytes(content)
            publish(folder / file.name, file.absolute(), force=force)

    def show(self, file: Path | None, *, as_json: bool, quiet: bool) -> None:
        """Print the plan, and where it was written."""
        from bct_onnx.cli.tables.plan import print_plan

        if as_json:
            print(json.dumps(self._figures(), indent=2))
        elif not quiet:
            print_plan(self.allocation, self.tries, None if file == PRINTED_ONLY else file)

    def _figures(self) -> dict[str, Any]:
        from bct_onnx.recipe import with_formats

        allotted = with_formats(self.pipeline, self.allocation.formats())
        figures = {
            "model": str(self.model),
            "target": self.target,
            "pipeline": str(allotted),
        } | self.allocation.as_dict()
        if self.tries:
            figures["tries"] = [
                {
                    "ratio": tried.ratio,
                    "metrics": dict(tried.figures.metrics),
                    "drop": tried.figures.drop,
                    "sqnr_db": tried.figures.sqnr_db,
                }
                for tried in self.tries
            ]
        return figures


def check_writable(file: Path, *, force: bool) -> None:
    """Find out before any work whether a plan may be written there.

    Raises:
        UsageError: It has another ending than .toml, or exists.
        OutputError: Its folder does not exist.
    """
    from bct_onnx.errors import OutputError, UsageError

    if file.suffix.lower() != ".toml":
        raise UsageError(f"'{file.name}' is no name of a plan", fix="end it in .toml")
    if file.exists() and not force:
        raise UsageError("the plan exists already", where=str(file), fix="add --force to replace it")
    if not file.absolute().parent.is_dir():
        raise OutputError("the folder of the plan does not exist", where=str(file))
