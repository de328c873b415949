"""The data that a model is calibrated on: the user's, text of ours, or random tokens."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from bct_onnx.cli import completion
from bct_onnx.cli.groups import OptionGroup
from bct_onnx.cli.options import TaskData, listed

if TYPE_CHECKING:
    from bct_onnx.pipeline import Pipeline

RANDOM = "random"
"""What --calibrate takes for random tokens, wherever there is a tokenizer."""


@dataclasses.dataclass(frozen=True)
class CalibrationData(OptionGroup):
    """The user's data for calibrate passes, and the tokenizer that texts need."""

    panel: ClassVar[str] = "With which data"

    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME",
            help="Your data: .csv, .tsv, .jsonl, .parquet, .txt, .npz, or a data set NAME[/CONFIG][:SPLIT]; not what "
            "you report on. By default English text of ours where a tokenizer is at hand, else random tokens, which "
            "'random' asks for.",
        ),
    ] = None
    column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN[,COLUMN]",
            help="Text column or two of --calibrate, by name or number.",
            autocompletion=completion.calibration_columns,
        ),
    ] = None
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of tokenizer.json; by default the model's.")
    ] = None

    def settings(self, model: Path) -> dict[str, Any]:
        """Options for calibrate passes; the tokenizer beside the model where texts need one.

        >>> settings = CalibrationData("ids.npz", None, Path("folder")).settings(Path("model.onnx"))
        >>> settings["data"].name, settings["tokenizer"]
        ('ids.npz', None)

        Raises:
            UsageError: Columns of no data.
        """
        from bct_onnx.errors import UsageError

        data = None if self.calibrate in (None, RANDOM) else Path(self.calibrate or "")
        if data is None and self.column is not None:
            raise UsageError("--column needs --calibrate", fix="add --calibrate FILE, or leave it out")
        if data is None or data.suffix.lower() == ".npz":  # token ids
            return {"data": data, "tokenizer": None, "column": listed(self.column) or None}
        home = self.home(model)
        tokenizer = home if (home / "tokenizer.json").is_file() else self.tokenizer
        return {"data": data, "tokenizer": tokenizer, "column": listed(self.column) or None}

    def given_to(self, pipeline: Pipeline, model: Path, *, is_own: bool = False) -> Pipeline:
        """The pipeline, its calibrate passes with this data.

        Args:
            pipeline: What was asked for.
            model: Beside it lies the tokenizer unless another is given.
            is_own: The pipeline is the user's own, and calibrates as it says where no data is given. Presets calibrate
                on text of ours then, where there is a tokenizer for it.

        Raises:
            UsageError: No pass of it takes data.
        """
        from bct_onnx.recipe import with_data, with_own_text

        given = with_data(pipeline, **self.settings(model))
        if self.calibrate is not None or is_own:
            return given
        return with_own_text(given, self.home(model))

    def refuse(self, scored: TaskData, *, is_own: bool) -> None:
        """Refuse a tokenizer that nothing is given to.

        Raises:
            UsageError: There is no text for it: neither the user's, nor ours, nor that of a task.
        """
        from bct_onnx.errors import UsageError
        from bct_onnx.tasks import own_text

        if self.tokenizer is None or scored.data is not None or self.calibrate not in (None, RANDOM):
            return
        if self.calibrate == RANDOM or is_own or not own_text.is_usable(self.tokenizer):
            raise UsageError("--tokenizer is of no use without data", fix="add --calibrate FILE, or leave it out")

    def home(self, model: Path) -> Path:
        """The folder of the tokenizer, if there is one."""
        if self.tokenizer is not None:
            return self.tokenizer
        return model if model.is_dir() else model.parent
