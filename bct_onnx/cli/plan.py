"""``bct-onnx plan``: which tensor gets how many bits, as a recipe; and what `rewrite` shares with it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bct_onnx.cli import options

if TYPE_CHECKING:
    from bct_onnx.pipeline import Pipeline
    from bct_onnx.planning import Plan
    from bct_onnx.planning.search import Try
    from bct_onnx.progress import Progress

TargetRatio = Annotated[
    float | None, typer.Option("--target-ratio", metavar="R", help="Parameters R times smaller than fp32, all counted.")
]
TargetBits = Annotated[
    float | None, typer.Option("--target-bits", metavar="B", help="Instead: B stored bits per parameter, all counted.")
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        metavar="X",
        help="Instead: the smallest that loses at most X points of --task on --data (perplexity: percent).",
    ),
]
TaskName = Annotated[
    str | None, typer.Option("--task", metavar="|".join(options.TASKS), help="For --max-drop, as in eval.")
]
TaskData = Annotated[
    str | None,
    typer.Option("--data", metavar="FILE|NAME", help="Labelled data for --max-drop; not the data you will report."),
]
CacheFolder = Annotated[
    Path | None, typer.Option("--cache", metavar="DIR", help="Where measurements for plans are kept.")
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Keep no measurements, and use none.")]


@dataclasses.dataclass(frozen=True)
class Wish:
    """What a plan is to reach: the options above.

    Raises:
        UsageError: `check` finds options that do not go together.
    """

    ratio: float | None = None
    bits: float | None = None
    max_drop: float | None = None
    task: str | None = None
    data: str | None = None
    text: str = ""
    label: str | None = None
    cache: Path | None = None
    no_cache: bool = False

    @property
    def given(self) -> bool:
        """Whether there is a target."""
        return any(one is not None for one in (self.ratio, self.bits, self.max_drop))

    def check(self) -> None:
        """Refuse what does not go together, before any work."""
        from bct_onnx.errors import UsageError

        targets = {"--target-ratio": self.ratio, "--target-bits": self.bits, "--max-drop": self.max_drop}
        named = [name for name, value in targets.items() if value is not None]
        if len(named) > 1:
            raise UsageError(f"{' and '.join(named)} cannot go together", fix="give one of them")
        for name, value in {"--task": self.task, "--data": self.data}.items():
            if self.max_drop is not None and value is None:
                raise UsageError(f"--max-drop needs {name}", fix=f"add {name}")
            if self.max_drop is None and value is not None:
                raise UsageError(f"{name} is of no use without --max-drop", fix="leave it out, or add --max-drop")
        if self.cache is not None and self.no_cache:
            raise UsageError("--cache and --no-cache cannot go together", fix="give one of them")


def make(
    model: Path, pipeline: Pipeline, target: str, wish: Wish, tokenizer: Path | None, progress: Progress
) -> tuple[Plan, Sequence[Try]]:
    """The plan that is wished for, and the tries that led to it."""
    from bct_onnx.planning import plan as made
    from bct_onnx.planning.cache import default_folder

    folder = None if wish.no_cache else wish.cache or default_folder()
    if wish.max_drop is None:
        one = made(model, pipeline, target, ratio=wish.ratio, bits=wish.bits, progress=progress, cache=folder)
        return one, ()
    from bct_onnx.planning.search import smallest
    from bct_onnx.tasks.catalogue import load_task
    from bct_onnx.yardstick import Measuring

    assert wish.task is not None  # checked
    assert wish.data is not None
    task = load_task(wish.task, wish.data, tokenizer or model.parent, text=options.listed(wish.text), label=wish.label)
    measuring = Measuring(task, wish.task, wish.data, rounds=0)
    tries = smallest(model, pipeline, target, measuring, wish.max_drop, progress=progress, cache=folder)
    return tries[-1].plan, tries


def write(one: Plan, file: Path, *, force: bool) -> None:
    """Write a plan as a recipe, whole or not at all."""
    from bct_onnx.graph.atomic import publish, temporary_folder

    check_writable(file, force=force)
    content = one.recipe().encode()
    with temporary_folder(file.absolute(), len(content)) as folder:
        (folder / file.name).write_bytes(content)
        publish(folder / file.name, file.absolute(), force=force)


def check_writable(file: Path, *, force: bool) -> None:
    """Find out before any work whether a plan may be written there."""
    from bct_onnx.errors import OutputError, UsageError

    if file.suffix.lower() != ".toml":
        raise UsageError(f"'{file.name}' is no name of a plan", fix="end it in .toml")
    if file.exists() and not force:
        raise UsageError("the plan exists already", where=str(file), fix="add --force to replace it")
    if not file.absolute().parent.is_dir():
        raise OutputError("the folder of the plan does not exist", where=str(file))


def plan(
    model: options.Model,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="PLAN.toml", help="Where to write the plan.")
    ] = None,
    target_ratio: TargetRatio = None,
    target_bits: TargetBits = None,
    max_drop: MaxDrop = None,
    task: TaskName = None,
    data: TaskData = None,
    text: options.Text = "",
    label: options.Label = None,
    preset: options.Preset = None,
    passes: options.Passes = None,
    recipe: options.Recipe = None,
    target: options.Target = None,
    calibrate: options.Calibrate = None,
    tokenizer: options.Tokenizer = None,
    column: options.Column = None,
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    as_json: options.AsJson = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing plan.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Choose how many bits each tensor gets.

    Measures in the model how much noise each weight makes at the outputs, and gives bits where they take away most, for
    a size or for a score. The plan is a recipe: 'bct-onnx rewrite MODEL --recipe PLAN.toml -o OUT.onnx' does the rest.
    Measurements are kept, so that another target for the same model takes seconds.
    """
    from bct_onnx.cli.progress import progress
    from bct_onnx.errors import UsageError
    from bct_onnx.recipe import choose, with_data

    wish = Wish(target_ratio, target_bits, max_drop, task, data, text, label, cache, no_cache)
    wish.check()
    if not wish.given:
        raise UsageError("a plan needs a target", fix="add --target-ratio 10, or --target-bits, or --max-drop")
    if output is not None:
        check_writable(output, force=force)
    elif quiet:
        raise UsageError("no output was given", fix="add -o PLAN.toml")
    pipeline, chosen_target = choose(preset=preset, passes=passes, recipe=recipe, target=target)
    pipeline = with_data(pipeline, **options.calibration(model, calibrate, tokenizer, column))
    with progress(enabled=not (quiet or as_json)) as advance:
        made, tries = make(model, pipeline, chosen_target, wish, tokenizer, advance)
    if output is not None:
        write(made, output, force=force)
    if as_json:
        print(json.dumps(as_dict(made, tries), indent=2))
    elif not quiet:
        _print(made, tries, output)


def as_dict(one: Plan, tries: Sequence[Try]) -> dict[str, Any]:
    """For JSON."""
    scored = [{"ratio": each.ratio, "metrics": dict(each.figures.metrics), "drop": each.figures.drop} for each in tries]
    return one.as_dict() | ({"tries": scored} if tries else {})


def _print(one: Plan, tries: Sequence[Try], output: Path | None) -> None:
    from bct_onnx.cli.plan_table import print_plan

    print_plan(one, tries, output)
