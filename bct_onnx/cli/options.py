"""The option groups that several commands share, and what is made of each: a pipeline, a task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from bct_onnx.cli import completion
from bct_onnx.cli.groups import OptionGroup

if TYPE_CHECKING:
    from bct_onnx.pipeline import Pipeline
    from bct_onnx.tasks.evaluate import Task

TASKS = ("classification", "regression", "similarity", "retrieval", "perplexity", "token-classification")

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="The exported ONNX model; never modified.")]
Threads = Annotated[int, typer.Option(min=0, metavar="N", help="Threads within an operator; 0 leaves it to ORT.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Plot = Annotated[
    Path | None, typer.Option(metavar="FILE.png|svg", help="Also a picture; pip install 'bct-onnx[plot]'.")
]


@dataclasses.dataclass(frozen=True)
class PipelineChoice(OptionGroup):
    """Which passes are run, for which runtime."""

    panel: ClassVar[str] = "Which passes, for which runtime"

    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A named pipeline; the target's by default ('bct-onnx list presets').",
            autocompletion=completion.preset_names,
        ),
    ] = None
    passes: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="A pipeline of passes and presets: 'lift,quantize-weights{bits=3},my_module:MyPass'.",
            autocompletion=completion.pass_names,
        ),
    ] = None
    recipe: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="Preset or passes, target and options.")] = (
        None
    )
    target: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help="ort-cpu (default), ort-cpu-integer, portable, web, webgpu, ort-cuda, openvino, qnn; 'list targets'.",
            autocompletion=completion.target_names,
        ),
    ] = None

    min_runtime: Annotated[
        str | None,
        typer.Option(metavar="X.Y", help="The oldest ONNX Runtime that shall run the result, from 1.18 on."),
    ] = None
    opset: Annotated[
        int | None,
        typer.Option(metavar="N", help="Instead: the newest opset; 21 is what ONNX Runtime 1.20 loads, 22 what 1.22."),
    ] = None

    functions: Annotated[
        bool,
        typer.Option("--functions", help="Keep functions of ai.bct as boxes where the target (portable) inlines them."),
    ] = False

    no_padding: Annotated[
        bool,
        typer.Option(
            "--no-padding",
            help="Compute real tokens alone, where the model has a mask: twice as fast on texts as they come. Results "
            "of tokens are 0 where the mask hides one.",
        ),
    ] = False

    @property
    def is_own(self) -> bool:
        """Whether the passes are the user's, and not those of a preset."""
        return self.passes is not None or self.recipe is not None

    @property
    def name(self) -> str | None:
        """What to call the pipeline in a table; None where nothing was chosen."""
        if self.passes is not None:
            return "passes"
        return self.preset or (self.recipe.stem if self.recipe is not None else None)

    def read(self) -> tuple[Pipeline, str]:
        """The pipeline and the target.

        Raises:
            UsageError: More than one way to say what to do, or something unknown in it.
        """
        from bct_onnx import targets
        from bct_onnx.recipe import choose, without_padding

        pipeline, target = choose(preset=self.preset, passes=self.passes, recipe=self.recipe, target=self.target)
        if self.no_padding:
            pipeline = without_padding(pipeline)
        target = targets.for_runtime(target, self.min_runtime, self.opset)
        return (_with_functions(pipeline, target) if self.functions else pipeline), target


def _with_functions(pipeline: Pipeline, target: str) -> Pipeline:
    """The whole pipeline, its lowering without inlining."""
    from bct_onnx import registry
    from bct_onnx.errors import UsageError
    from bct_onnx.pipeline import find

    whole = registry.complete(pipeline, target)
    if not find(whole, "lower-portable"):
        raise UsageError(f"target {target} inlines no functions", fix="leave out --functions")
    return whole.replace({"lower-portable": {"functions": "keep"}})


@dataclasses.dataclass(frozen=True)
class TaskData(OptionGroup):
    """Labelled data of what the model is for: scores are computed on it."""

    panel: ClassVar[str] = "A task and its data"

    task: Annotated[str | None, typer.Option(metavar="TASK", help=f"What the model is for: {', '.join(TASKS)}.")] = None
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME",
            help="Labelled: .csv, .tsv, .jsonl, .txt, .npz (token ids), or a data set NAME[/CONFIG][:SPLIT] such as "
            "glue/sst2:validation, or a folder of one.",
        ),
    ] = None
    text: Annotated[
        str,
        typer.Option(
            metavar="COLUMN[,COLUMN]",
            help="Text column or two of --data, by name or number.",
            autocompletion=completion.data_columns,
        ),
    ] = ""
    label: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Column of labels, scores or tags of --data.", autocompletion=completion.data_columns
        ),
    ] = None

    def load(self, model: Path, tokenizer: Path | None, **settings: Any) -> Task | None:
        """The task with its data read and tokenized; None where none was given.

        Args:
            model: Beside it lies the tokenizer unless another is given.
            tokenizer: The folder of another.
            settings: Further arguments of `bct_onnx.tasks.catalogue.load_task`, such as `limit`.

        Raises:
            UsageError: A task without data, or data without a task.
        """
        from bct_onnx.errors import UsageError
        from bct_onnx.tasks.catalogue import load_task

        if self.task is None and self.data is None:
            return None
        if self.data is None or self.task is None:
            missing, present = ("--data", "--task") if self.data is None else ("--task", "--data")
            raise UsageError(f"{present} needs {missing}", fix=f"add {missing}, or leave {present} out")
        folder = tokenizer or model.parent
        return load_task(self.task, self.data, folder, text=listed(self.text), label=self.label, **settings)


@dataclasses.dataclass(frozen=True)
class TaskSize(OptionGroup):
    """How much of the task's data is used at once and in all."""

    panel: ClassVar[str] = TaskData.panel

    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first so many rows or windows of --data.")
    ] = None
    max_length: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens per text, or predictions per window.")] = (
        128
    )


def listed(text: str | None) -> tuple[str, ...]:
    """The names in an option that takes several.

    >>> listed("premise,hypothesis"), listed(""), listed(None)
    (('premise', 'hypothesis'), (), ())
    """
    return tuple(filter(None, (text or "").split(",")))


def refuse(options: Mapping[str, object], mode: str) -> None:
    """Refuse options that mean nothing in a mode of a command.

    Args:
        options: Values by the option's name; those at None, empty or False were not given.
        mode: How the mode is written on the command line, such as ``--by size``.

    Raises:
        UsageError: One of them was given.
    """
    from bct_onnx.errors import UsageError

    for name, value in options.items():
        if value not in (None, False, "", [], ()):
            raise UsageError(f"{name} is of no use {mode}", fix="leave it out")
