"""Labelled texts as the user names them: what every task that reads a text and its label is told, in one piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bct_onnx.tasks.readers import Table
from bct_onnx.tasks.sources import open_table
from bct_onnx.tasks.tokens import TextTokenizer


@dataclass(frozen=True)
class LabelledTexts:
    """Where a task's texts and labels are, and how texts become tokens. Nothing is read before a method is called.

    Attributes:
        data: A file, or a data set as `bct_onnx.tasks.sources.open_dataset` names it.
        tokenizer: Folder of `tokenizer.json`, and of `config.json` where labels have names.
        text: Text column or two; by default the usual ones.
        label: Column of labels, scores or tags; by default the usual one.
        max_length: Tokens per text.
        limit: Only the first so many rows.
    """

    data: Path | str
    tokenizer: Path
    text: Sequence[str] = ()
    label: str | None = None
    max_length: int = 128
    limit: int | None = None

    def table(self) -> Table:
        """The first `limit` rows; the columns the user has named tell a header from a first row.

        Raises:
            UsageError: The data cannot be read as a table.
        """
        return open_table(self.data, [*self.text, *([self.label] if self.label else [])], self.limit)

    def encoder(self) -> TextTokenizer:
        """The tokenizer, which truncates to `max_length` tokens.

        Raises:
            UsageError: There is none in the folder.
        """
        return TextTokenizer(self.tokenizer, self.max_length)
