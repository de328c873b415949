"""``bct-onnx study``: what each part of a rewrite costs, all about one tensor, and what is left at which size."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from bct_onnx.cli import options
from bct_onnx.cli.calibrating import CalibrationData
from bct_onnx.cli.groups import OptionGroup, grouped

if TYPE_CHECKING:
    from bct_onnx.pipeline import Pipeline
    from bct_onnx.study.candidates import Study
    from bct_onnx.study.comparison import Measuring
    from bct_onnx.study.tradeoff import Job, Row

WAYS = ("ingredient", "pass", "tensor", "size")


@dataclasses.dataclass(frozen=True)
class Part(OptionGroup):
    """What a rewrite is taken apart by, and which of the parts are looked at."""

    panel: ClassVar[str] = "What to study"

    by: Annotated[str, typer.Option(metavar="|".join(WAYS), help="What to take apart.")] = "ingredient"
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,NAME]",
            help="ingredient: these and no others. size: fp32, ours, nearest, shift, others, or a tool. Repeatable.",
        ),
    ] = None
    top: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="tensor: run the N with the largest weighted error only.")
    ] = None
    ratio: Annotated[
        list[float] | None,
        typer.Option(metavar="X", help="size: times smaller by parameters; repeatable. By default 4, 8, 10, 12, 14.4."),
    ] = None
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[,NAME]", help="size: also ours without NAME at each ratio; repeatable; or all."),
    ] = None
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json", help="size: results are kept there row by row; what it has is not made again."
        ),
    ] = None

    def names(self, texts: list[str] | None) -> tuple[str, ...]:
        """Names of an option that is repeatable and takes several joined by commas, each once."""
        return tuple(dict.fromkeys(options.listed(",".join(texts or ()))))

    def check(self) -> None:
        """Refuse options that do not go together.

        Raises:
            UsageError: Another way, or an option of another way.
        """
        from bct_onnx.errors import UsageError

        if self.by not in WAYS:
            raise UsageError(f"a rewrite is not taken apart by '{self.by}'", where="--by", fix=f"use {', '.join(WAYS)}")
        ways = {
            "--only": (self.only, ("ingredient", "size")),
            "--top": (self.top, ("tensor",)),
            "--ratio": (self.ratio, ("size",)),
            "--without": (self.without, ("size",)),
            "--resume": (self.resume, ("size",)),
        }
        unused = {name: value for name, (value, known) in ways.items() if self.by not in known}
        options.refuse(unused, f"with --by {self.by}")


@dataclasses.dataclass(frozen=True)
class Timing(OptionGroup):
    """How candidates are timed (by ingredient and by pass)."""

    panel: ClassVar[str] = "How to time (ingredient, pass)"

    shape: Annotated[str, typer.Option(metavar="BxS", help="Batch and sequence; by default 8x128.")] = "8x128"
    rounds: Annotated[
        int, typer.Option(min=0, metavar="N", help="Timed runs per model, interleaved; by default 10, 0 times nothing.")
    ] = 10
    threads: options.Threads = 1


@grouped
def study(
    model: options.Model,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[TENSOR]",
            help="Tell all that is known of this tensor instead: its name or its node's; a part or pattern will do.",
        ),
    ] = None,
    *,
    part: Part,
    choice: options.PipelineChoice,
    scored: options.TaskData,
    size: options.TaskSize,
    calibration: CalibrationData,
    timing: Timing,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Sequences of --data per run; by default 32.")] = 32,
    plot: options.Plot = None,
    as_json: options.AsJson = False,
) -> None:
    """Tell what each part of a rewrite costs, where the error comes from, and what is left at which size.

    ingredient: each replacement alone (embeddings, weights, activations, GELU, attention, ...), then a whole preset.
    pass: what each pass of a pipeline adds to those before it. tensor: each weight alone, the worst first.

    size: the model compressed in many ways to many sizes, with --task and --data; rows are printed as they are done.
    ours: the preset, with bits allotted for each ratio. nearest: the same bits everywhere, rounded to the nearest.
    shift: the 64 x 64 blocks of the BCT paper. others: what other tools make of the model; one that is not installed
    or fails says so. Seconds and peak memory are those of the compression, each in a process of its own.

    With TENSOR: where it is used, how its values are spread, what it is multiplied by before and after outliers are
    moved, what 2 to 8 bits would make of it and of the outputs, and what each pass does with it, or why not.

    Distances are from the model as it came: SQNR of the outputs (dB), KL divergence of the logits (nats), on the
    task's data or else on random tokens. `x` is times faster than it, by medians and by minima of the rounds.
    """
    from bct_onnx.cli.timing import parse_shape
    from bct_onnx.errors import UsageError
    from bct_onnx.study import picture
    from bct_onnx.study.comparison import Measuring

    part.check()
    if plot is not None:
        picture.check(plot)
    if part.by == "size" and (scored.task is None or scored.data is None):
        raise UsageError("--by size needs scores", fix="add --task and --data")
    task = scored.load(model, calibration.tokenizer, max_length=size.max_length, limit=size.limit)
    timed = timing.rounds if part.by in ("ingredient", "pass") and name is None else 0
    shape = parse_shape(timing.shape)
    measuring = Measuring(task, scored.task or "", scored.data or "", batch, shape, timed, timing.threads)
    studying = _Study(model, choice, calibration, measuring, plot, as_json)
    if name is not None:
        studying.one_tensor(name)
    elif part.by == "size":
        studying.by_size(part, size.max_length)
    else:
        studying.by_part(part)


@dataclasses.dataclass(frozen=True)
class _Study:
    """One study: of which model, with which pipeline and data, shown how."""

    model: Path
    choice: options.PipelineChoice
    calibration: CalibrationData
    measuring: Measuring
    plot: Path | None
    as_json: bool

    def one_tensor(self, name: str) -> None:
        """Tell all that is known of a tensor."""
        from bct_onnx.cli.tables.tensor import print_tensor
        from bct_onnx.study.one_tensor import explain

        pipeline, target = self._pipeline()
        with self._opened(target) as opened:
            explanation, source = explain(opened, pipeline, name), opened.comparison.source
        if self.as_json:
            about = {"pipeline": str(pipeline), "target": target, "outputs_compared_on": source}
            self._print_json(about | explanation.as_dict())
        else:
            print_tensor(explanation, source)

    def by_part(self, part: Part) -> None:
        """Tell what each ingredient, pass or tensor costs."""
        from bct_onnx.cli.tables.study import print_result
        from bct_onnx.study import picture
        from bct_onnx.study.by_ingredient import by_ingredient, chosen
        from bct_onnx.study.by_pass import by_pass
        from bct_onnx.study.by_tensor import by_tensor

        pipeline, target = self.choice.read()
        parts = {part.by: pipeline}
        if part.by == "ingredient":
            parts = chosen(part.names(part.only))
            if self.choice.name is not None:
                parts[self.choice.name] = pipeline
        parts = self._with_data(parts)
        with self._opened(target) as opened:
            if part.by == "ingredient":
                result = by_ingredient(opened, parts)
            elif part.by == "pass":
                result = by_pass(opened, parts[part.by])
            else:
                result = by_tensor(opened, parts[part.by], part.top)
        if self.plot is not None:
            picture.draw_parts(result, self.plot)
        if self.as_json:
            self._print_json(result.as_dict())
        else:
            print_result(result)

    def by_size(self, part: Part, max_length: int) -> None:
        """Compress the model in many ways to many sizes, and tell what is left of it."""
        from bct_onnx.cli.tables.sizes import Lines, notes
        from bct_onnx.study import picture
        from bct_onnx.study.tradeoff import collect, setting_of

        pipeline, target = self._pipeline()
        jobs = _jobs(pipeline, part)
        task = self.measuring.task
        assert task is not None  # `study` refuses to go by size without one
        setting = setting_of(
            self.model,
            target=target,
            task=self.measuring.name,
            data=self.measuring.data,
            sequences=len(task.tokens.ids),
            max_length=max_length,
        )
        show = _nothing if self.as_json else Lines(jobs, sys.stdout)
        with self._opened(target) as opened:
            result = collect(opened, pipeline, jobs, setting, part.resume, show)
        if self.plot is not None:
            picture.draw_sizes(result, self.plot)
        if self.as_json:
            self._print_json(result.as_dict())
        else:
            print("\n".join(notes(result, pipeline)))

    @contextlib.contextmanager
    def _opened(self, target: str) -> Iterator[Study]:
        """The study, with a bar on the terminal unless the output is JSON."""
        from bct_onnx.cli.progress import progress
        from bct_onnx.study.candidates import open_study

        with (
            progress(enabled=not self.as_json) as advance,
            open_study(self.model, target, self.measuring, advance) as opened,
        ):
            yield opened

    def _print_json(self, result: dict[str, Any]) -> None:
        print(json.dumps({"model": str(self.model)} | result, indent=2))

    def _pipeline(self) -> tuple[Pipeline, str]:
        """The chosen pipeline with the user's data, and the target."""
        pipeline, target = self.choice.read()
        return self.calibration.given_to(pipeline, self.model, is_own=self.choice.is_own), target

    def _with_data(self, parts: dict[str, Pipeline]) -> dict[str, Pipeline]:
        """The pipelines with the user's data for those of them that calibrate."""
        from bct_onnx.pipeline import find

        calibrating = [name for name, pipeline in parts.items() if find(pipeline, "calibrate")]
        given = dict(parts)
        for name in calibrating or parts:
            is_own = self.choice.is_own and name in (self.choice.name, "pass", "tensor")
            given[name] = self.calibration.given_to(parts[name], self.model, is_own=is_own)
        return given


def _jobs(pipeline: Pipeline, part: Part) -> list[Job]:
    from bct_onnx.study.tradeoff import RATIOS, WITHOUT, Selection, jobs

    left_out = part.names(part.without)
    if "all" in left_out:
        left_out = tuple(name for name, change in WITHOUT.items() if change.has_place(pipeline))
    return jobs(pipeline, Selection(tuple(part.ratio or RATIOS), part.names(part.only), left_out))


def _nothing(row: Row) -> None:
    """Show nothing: the JSON output comes at the end."""
