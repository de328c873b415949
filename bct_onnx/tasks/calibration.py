"""A user's data as model inputs for calibration: texts, tables of texts, token ids or ready arrays.

Sequences of equal length go together, so that nothing is padded: what a padded position computes depends on nothing
that the model will see in use, and must not enter the statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from bct_onnx.errors import UsageError
from bct_onnx.runtime.feeds import Feeds, fits_declared, fitted, is_fillable, random_feeds, read_arrays
from bct_onnx.runtime.inputs import Input, ids_input
from bct_onnx.tasks import own_text
from bct_onnx.tasks.embeddings import usual_pooling
from bct_onnx.tasks.parts import HELD_BACK, Part, rows_of
from bct_onnx.tasks.readers import read_token_sequences
from bct_onnx.tasks.sources import open_texts
from bct_onnx.tasks.tokens import TextTokenizer

if TYPE_CHECKING:
    from bct_onnx.base import Pass


@dataclass(frozen=True)
class Samples:
    """Model inputs without a batch axis, each sample of its own length.

    Attributes:
        inputs: What the model declares.
        rows: The arrays of each sample by input name; `random_feeds` makes what is left out: masks, positions, empty
            caches.
        source: Where they come from, in words: "512 rows of reviews.tsv (9000 tokens)".
        whole: One sample for all inputs as they are, where they have no batch axis in common; there are no rows then.
    """

    inputs: tuple[Input, ...]
    rows: tuple[Feeds, ...]
    source: str
    whole: Feeds | None = None

    @property
    def tokens(self) -> int:
        """Length of all samples together."""
        return sum(_length(row) for row in self.rows)

    def batches(self, size: int) -> Iterator[Feeds]:
        """At most ``size`` samples at a time, all of the same shapes, short ones first.

        A model with a fixed batch gets that many: its last batches are filled up with samples that it has had.
        """
        if self.whole is not None:
            yield self.whole
            return
        if not self.rows:
            return
        shapes = [tuple(array.shape for array in row.values()) for row in self.rows]
        sizes = (i.shape[0] for i in self.inputs if i.name in self.rows[0] and i.shape)
        fixed = next((size for size in sizes if isinstance(size, int)), None)
        for shape in sorted(set(shapes)):
            group = [row for row, one in zip(self.rows, shapes, strict=True) if one == shape]
            for start in range(0, len(group), fixed or size):
                part = group[start : start + (fixed or size)]
                yield self._feeds([part[n % len(part)] for n in range(fixed or len(part))])

    def _feeds(self, rows: Sequence[Feeds]) -> Feeds:
        feeds = random_feeds(self.inputs, batch=len(rows), sequence=_length(rows[0]))
        return feeds | {name: np.stack([row[name] for row in rows]).astype(feeds[name].dtype) for name in rows[0]}


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
        return self._read(self.file, inputs, limit, length, "all" if self.is_own else "calibrating")

    def held_back(self, inputs: Sequence[Input], length: int) -> Samples:
        """Some samples that `read` never gives; a UsageError where there are none."""
        assert self.file is not None
        part: Part = "all" if self.is_own else "held back"
        file = own_text.HELD_BACK if self.is_own else self.file
        return self._read(file, inputs, HELD_BACK, length, part)

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
        return given if isinstance(given, CalibrationData) else cls()


_DATA = "bct_onnx.calibration_data"


def read_samples(
    data: Path,
    inputs: Sequence[Input],
    *,
    tokenizer: Path | None = None,
    columns: Sequence[str] = (),
    limit: int = 128,
    length: int = 128,
    part: Part = "all",
) -> Samples:
    """Read at most ``limit`` samples, taken evenly from the whole file, since files are often sorted.

    Args:
        data: `.npz`: arrays by input name with the samples along the first axis (what a mask hides is cut off), or
            `tokens` and `lengths`. `.csv`, `.tsv`, `.jsonl`, `.parquet`: a table. Other files: a text, a line a sample.
            Or a data set by name (see `bct_onnx.tasks.sources`).
        inputs: What the model declares.
        tokenizer: Folder of `tokenizer.json`; needed for texts.
        columns: The column of a table that holds the texts, or two of them for pairs; by default the usual names.
        limit: Largest number of samples.
        length: Sequences are cut to so many tokens. A model of a fixed length gets sequences joined end to end and cut
            to that length instead.
        part: Which rows to take; see `bct_onnx.tasks.parts`.

    Raises:
        UsageError: The data or the tokenizer cannot be read, or do not fit the model.
    """
    if data.suffix.lower() == ".npz" and (whole := _whole(data, inputs)) is not None:
        return Samples(tuple(inputs), (), f"1 sample of {data.name}", whole)
    if data.suffix.lower() == ".npz":
        rows = _from_arrays(data, inputs, limit, length, part)
    else:
        texts = [rows_of(column, part, limit) for column in open_texts(data, columns)]
        rows = _from_texts(texts, data, inputs, tokenizer, length)
    rows = [row for row in rows if row and _length(row)]
    if not rows:
        raise UsageError("there is nothing to calibrate on", where=str(data), why="no row has a token")
    for one in inputs:
        if one.name not in rows[0] and not is_fillable(one.name):
            raise UsageError(
                f"no data for model input '{one.name}'",
                where=str(data),
                fix="give an .npz file with an array for each model input, samples along the first axis",
            )
    samples = tuple(_joined(rows, data, inputs))
    sequences = any(_is_sequence(one) for one in inputs if one.name in rows[0])
    tokens = f" ({sum(_length(row) for row in samples)} tokens)" if sequences else ""
    return Samples(tuple(inputs), samples, f"{len(rows)} rows of {data.name}{tokens}")


def _whole(data: Path, inputs: Sequence[Input]) -> Feeds | None:
    """The arrays as one sample, where a first axis of all of them cannot be that of the samples."""
    arrays = read_arrays(data)
    declared = {one.name: one for one in inputs}
    if not arrays or arrays.keys() != declared.keys():
        return None
    firsts = {array.shape[:1] for array in arrays.values()}
    is_fixed = any(isinstance(one.shape[0], int) and one.shape[0] > 1 for one in inputs if one.shape)
    fits = all(fits_declared(array.shape, declared[name]) for name, array in arrays.items())
    return fitted(arrays, inputs, data) if fits and (is_fixed or len(firsts) > 1 or () in firsts) else None


def _from_arrays(data: Path, inputs: Sequence[Input], limit: int, length: int, part: Part) -> list[Feeds]:
    arrays = read_arrays(data)
    if {"tokens", "lengths"} == set(arrays):
        name = ids_input(inputs).name
        return [{name: ids[:length]} for ids in rows_of(read_token_sequences(data), part, limit)]
    free = [replace(i, shape=(None, *((None,) if _is_sequence(i) else i.shape[1:]))) for i in inputs]
    arrays = fitted(arrays, free, data)
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        why = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise UsageError("the arrays have different numbers of samples", where=str(data), why=why)
    chosen = rows_of(range(next(iter(counts.values()), 0)), part, limit)
    sequences = {i.name for i in inputs if _is_sequence(i)}
    sequences = sequences if arrays.keys() <= sequences else set()  # lengths and signals beside them stay true
    rows = (_unpadded({name: array[n] for name, array in arrays.items()}) for n in chosen)
    return [{name: array[:length] if name in sequences else array for name, array in row.items()} for row in rows]


def _unpadded(row: Feeds) -> Feeds:
    """A sample without its padding, and without its mask, which is made anew."""
    mask = row.get("attention_mask")
    hidden = [name for name, array in row.items() if mask is not None and array.shape == mask.shape and mask.ndim == 1]
    if mask is None or len(hidden) < 2:
        return row
    cut = {name: array[mask.astype(bool)] if name in hidden else array for name, array in row.items()}
    del cut["attention_mask"]
    return cut


def _from_texts(
    texts: Sequence[Sequence[str]], data: Path, inputs: Sequence[Input], tokenizer: Path | None, length: int
) -> list[Feeds]:
    if tokenizer is None:
        raise UsageError(
            "texts need a tokenizer",
            where=str(data),
            fix="give the folder of the model's tokenizer.json with --tokenizer, or token ids in an .npz file",
        )
    ids, types = ids_input(inputs).name, "token_type_ids"
    tokens = TextTokenizer(tokenizer, length).encode(*texts)
    if not any(i.name == types for i in inputs):
        return [{ids: one} for one in tokens.ids]
    return [{ids: one, types: kinds} for one, kinds in zip(tokens.ids, tokens.types, strict=True)]


def _joined(rows: list[Feeds], data: Path, inputs: Sequence[Input]) -> list[Feeds]:
    """Sequences joined end to end and cut to the length of a model that takes no other."""
    sequences = {i.name: i.shape[1] for i in inputs if _is_sequence(i)}
    fixed = next((size for name, size in sequences.items() if name in rows[0] and isinstance(size, int)), None)
    if fixed is None or not rows[0].keys() <= sequences.keys():
        return rows
    total = sum(_length(row) for row in rows)
    if total < fixed:
        raise UsageError(f"{total} tokens are too few", where=str(data), why=f"the model takes {fixed} at a time")
    long = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return [
        {name: array[start : start + fixed] for name, array in long.items()}
        for start in range(0, total - fixed + 1, fixed)
    ]


def _is_sequence(one: Input) -> bool:
    """Whether an input has a number per token: token ids, their types, mask and positions."""
    return len(one.shape) == 2 and one.dtype.kind in "iub"


def _length(row: Feeds) -> int:
    return max((len(array) for array in row.values() if array.ndim == 1), default=1)
