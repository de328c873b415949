"""What calibrate was given: a user's data, or none, for passes behind it and checks that run the model as well."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from bct_onnx.runtime.inputs import Input
from bct_onnx.tasks import own_text
from bct_onnx.tasks.embeddings import usual_pooling
from bct_onnx.tasks.parts import HELD_BACK, Part
from bct_onnx.tasks.samples import Samples, read_samples

if TYPE_CHECKING:
    from bct_onnx.base import Pass


@dataclass(frozen=True)
class CalibrationData:
    """What calibrate was given, for passes behind it that run the model as well.

    Attributes:
        file: The user's data, a file or the name of a data set; None where tokens are random.
        tokenizer: Folder of `tokenizer.json`; None where nothing needs one.
        columns: Of a table, as in `read_samples`.
        samples: Sequences that were asked for; 0 leaves the number to calibrate.
        sequence: Tokens in each; 0 likewise.
        seed: Of random tokens.
    """

    file: Path | None = None
    tokenizer: Path | None = None
    columns: tuple[str, ...] = ()
    samples: int = 0
    sequence: int = 0
    seed: int = 0

    @property
    def is_own(self) -> bool:
        """Whether it is the text of this package, of which texts to check with lie in another file."""
        return self.file == own_text.FILE

    def read(self, inputs: Sequence[Input], limit: int, length: int) -> Samples:
        """At most ``limit`` samples of the file, cut to ``length`` tokens, without those held back.

        Raises:
            UsageError: As `read_samples`.
        """
        assert self.file is not None
        if self.is_own:
            return self._read(self.file, inputs, limit, length, "all")
        return self._read(self.file, inputs, limit, length, "calibrating")

    def held_back(self, inputs: Sequence[Input], length: int) -> Samples:
        """Some samples that `read` never gives; a UsageError where there are none."""
        assert self.file is not None
        if self.is_own:
            return self._read(own_text.HELD_BACK, inputs, HELD_BACK, length, "all")
        return self._read(self.file, inputs, HELD_BACK, length, "held back")

    def _read(self, file: Path, inputs: Sequence[Input], limit: int, length: int, part: Part) -> Samples:
        options: dict[str, Any] = {"tokenizer": self.tokenizer, "columns": self.columns, "part": part, "limit": limit}
        return read_samples(file, inputs, length=length, **options)

    @classmethod
    def ahead(cls, passes: Iterable[Pass]) -> CalibrationData:
        """What the first calibrate of some passes is given; nothing where there is none."""
        for each in passes:
            if each.name == "calibrate":
                options: dict[str, Any] = dict(each.options(defaults=True))
                return cls.given(**options)
        return cls()

    @classmethod
    def given(
        cls,
        *,
        data: str = "",
        tokenizer: str = "",
        column: tuple[str, ...] = (),
        samples: int = 0,
        sequence: int = 0,
        seed: int = 0,
        **others: object,
    ) -> CalibrationData:
        """What options of calibrate say; those that are no business of the data are left alone."""
        folder = Path(tokenizer) if tokenizer else None
        file = Path(data) if data else None
        if data == own_text.NAME:
            file = own_text.FILE
        return cls(file, folder, column, samples, sequence, seed)

    @property
    def pooling(self) -> str | None:
        """How vectors of tokens become that of a text, where the tokenizer's folder has a file about it."""
        if self.tokenizer is None or not (self.tokenizer / "1_Pooling" / "config.json").is_file():
            return None
        return usual_pooling(self.tokenizer)

    def leave(self, model: ir.Model) -> None:
        """Let passes find it beside the graph."""
        model.graph.meta[_DATA] = self

    @classmethod
    def of(cls, model: ir.Model) -> CalibrationData:
        """What calibrate has left; nothing where it did not run."""
        given = model.graph.meta.get(_DATA)
        if isinstance(given, CalibrationData):
            return given
        return cls()


_DATA = "bct_onnx.calibration_data"
