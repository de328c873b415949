"""What a frontier has found, as data, in memory and in a JSON file that a later run goes on with."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bct_onnx import __version__, digest
from bct_onnx.errors import OutputError, UsageError
from bct_onnx.graph.atomic import write_text
from bct_onnx.graph.load import files
from bct_onnx.graph.names import by_name


@dataclasses.dataclass(frozen=True)
class Row:
    """One compressed model, or why there is none.

    Attributes:
        name: Unique within a frontier.
        group: See `bct_onnx.study.tradeoff.rows.Job`.
        passes: Pipeline text of what was asked for.
        text: Pipeline text of what was done, or the setting of a tool.
        wanted: Times smaller that was asked for; None where bits were.
        ratio: Times smaller than fp32 by parameters, everything stored counted.
        bits: Stored bits per parameter.
        nbytes: Bytes on disk.
        figures: `bct_onnx.study.Figures` in its JSON form: metrics, drop, sqnr_db, kl, agreement.
        seconds: Wall time of the compression.
        slowest: Its longest step; empty where there are no steps.
        slowest_seconds: Wall time of that step.
        peak: Largest memory of the compressing process in bytes; None where it cannot be told.
        error: The first line of what went wrong; empty if nothing did.
        code: `bct_onnx.digest.of_code` when it was made: another state of the program makes it again.
    """

    name: str
    group: str
    passes: str = ""
    text: str = ""
    wanted: float | None = None
    ratio: float | None = None
    bits: float | None = None
    nbytes: int | None = None
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float | None = None
    slowest: str = ""
    slowest_seconds: float | None = None
    peak: int | None = None
    error: str = ""
    code: str = ""

    def metric(self, name: str) -> float | None:
        """A score; None where there is none, or it is not finite."""
        value = self.figures.get("metrics", {}).get(name)
        if value is None:
            return None
        return float(value)


@dataclasses.dataclass(frozen=True)
class Frontier:
    """All rows, and what they were measured on.

    Attributes:
        setting: What has to be the same for rows to belong together: model, data, task and how it was run.
        rows: In the order they were asked for.
    """

    setting: Mapping[str, Any]
    rows: tuple[Row, ...] = ()

    @property
    def metric(self) -> str:
        """The task's most important score; empty without rows."""
        metrics = (row.figures.get("metrics", {}) for row in self.rows)
        return next(itertools.chain.from_iterable(metrics), "")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self.setting, "metric": self.metric, "rows": list(map(dataclasses.asdict, self.rows))}

    def write(self, file: Path) -> None:
        """Write it as JSON, whole or not at all.

        Raises:
            OutputError: The file cannot be written.
        """
        try:
            write_text(file, json.dumps(self.as_dict(), indent=2), "frontier")
        except OSError as error:
            raise OutputError("the results could not be written", where=str(file), why=error.strerror or "") from error


def read(file: Path, setting: Mapping[str, Any]) -> dict[str, Row]:
    """The rows of an earlier run by their names; none if there is no such file.

    Args:
        file: What `Frontier.write` wrote.
        setting: That of the new run.

    Raises:
        UsageError: It is another kind of file, or its rows were measured in another setting.
    """
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        rows = [Row(**row) for row in content["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            "the results cannot be read", where=str(file), why=str(error), fix="name a new file"
        ) from error
    for name, value in setting.items():
        if content.get(name) != value:
            raise UsageError(
                "these results are of another run",
                where=str(file),
                why=f"{name} was {content.get(name)!r} and is {value!r}",
                fix="name a new file",
            )
    return by_name(rows)


def setting_of(model: Path, **others: Any) -> dict[str, Any]:
    """What a frontier's rows have in common, the model's and this program's identity among it."""
    return {"model": model.name, "source": digest.of_files(files(model)), "version": __version__, **others}
