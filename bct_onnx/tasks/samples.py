"""Samples to calibrate on, as a model takes them: read from texts, tables of texts, token ids or ready arrays.

Sequences of equal length go together, so that nothing is padded: what a padded position computes depends on nothing
that the model will see in use, and must not enter the statistics.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bct_onnx.errors import UsageError
from bct_onnx.graph.names import map_values, names_of
from bct_onnx.runtime.feeds import Feeds, fits_declared, fitted, is_fillable, random_feeds, read_arrays
from bct_onnx.runtime.inputs import Input, ids_input
from bct_onnx.tasks.parts import Part, rows_of
from bct_onnx.tasks.readers import read_token_sequences
from bct_onnx.tasks.sources import open_texts
from bct_onnx.tasks.tokens import TextTokenizer


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
        return sum(map(_length, self.rows))

    def split(self, every: int) -> tuple[Samples, Samples]:
        """Every so many-th sample, and the others."""
        others = tuple(row for number, row in enumerate(self.rows) if number % every)
        return replace(self, rows=self.rows[::every]), replace(self, rows=others)

    def batches(self, size: int) -> Iterator[Feeds]:
        """At most ``size`` samples at a time, all of the same shapes, short ones first.

        A model with a fixed batch gets that many: its last batches are filled up with samples that it has had.
        """
        if self.whole is not None:
            yield self.whole
            return
        if not self.rows:
            return
        fixed = self._fixed_batch()
        groups: dict[tuple[tuple[int, ...], ...], list[Feeds]] = {}
        for row in self.rows:
            groups.setdefault(tuple(array.shape for array in row.values()), []).append(row)
        for shapes in sorted(groups):
            group = groups[shapes]
            for start in range(0, len(group), fixed or size):
                part = group[start : start + (fixed or size)]
                yield self._feeds(list(itertools.islice(itertools.cycle(part), fixed or len(part))))

    def _fixed_batch(self) -> int | None:
        """How many samples the model takes at a time; None where that is free."""
        for declared in self.inputs:
            if declared.name in self.rows[0] and declared.shape and isinstance(declared.shape[0], int):
                return declared.shape[0]
        return None

    def _feeds(self, rows: Sequence[Feeds]) -> Feeds:
        feeds = random_feeds(self.inputs, batch=len(rows), sequence=_length(rows[0]))
        for name in rows[0]:
            feeds[name] = np.stack(_arrays(rows, name)).astype(feeds[name].dtype)
        return feeds


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
    for declared in inputs:
        if declared.name not in rows[0] and not is_fillable(declared.name):
            raise UsageError(
                f"no data for model input '{declared.name}'",
                where=str(data),
                fix="give an .npz file with an array for each model input, samples along the first axis",
            )
    source = f"{len(rows)} rows of {data.name}"
    samples = Samples(tuple(inputs), tuple(_joined(rows, data, inputs)), source)
    if rows[0].keys() & _sequences(inputs).keys():
        return replace(samples, source=f"{source} ({samples.tokens} tokens)")
    return samples


def _whole(data: Path, inputs: Sequence[Input]) -> Feeds | None:
    """The arrays as one sample, where a first axis of all of them cannot be that of the samples."""
    arrays = read_arrays(data)
    if not arrays or len(arrays) != len(inputs):
        return None
    lengths: set[tuple[int, ...]] = set()
    is_fixed = False
    for declared in inputs:
        if declared.name not in arrays or not fits_declared(arrays[declared.name].shape, declared):
            return None
        lengths.add(arrays[declared.name].shape[:1])
        batch = declared.shape[0] if declared.shape else None
        is_fixed = is_fixed or (isinstance(batch, int) and batch > 1)
    if is_fixed or len(lengths) > 1 or () in lengths:
        return fitted(arrays, inputs, data)
    return None


def _from_arrays(data: Path, inputs: Sequence[Input], limit: int, length: int, part: Part) -> list[Feeds]:
    arrays = read_arrays(data)
    if {"tokens", "lengths"} == set(arrays):
        name = ids_input(inputs).name
        return [{name: ids[:length]} for ids in rows_of(read_token_sequences(data), part, limit)]
    arrays = fitted(arrays, list(map(_of_any_length, inputs)), data)
    counts = map_values(len, arrays)
    if len(set(counts.values())) > 1:
        why = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise UsageError("the arrays have different numbers of samples", where=str(data), why=why)
    rows: list[Feeds] = []
    for number in rows_of(range(next(iter(counts.values()), 0)), part, limit):
        row = _unpadded(_cut(arrays, arrays, number))
        if arrays.keys() <= _sequences(inputs).keys():  # lengths and signals beside them stay true
            row = _cut(row, row, slice(length))
        rows.append(row)
    return rows


def _of_any_length(declared: Input) -> Input:
    """An input that takes any number of samples, and of tokens."""
    if _is_sequence(declared):
        return replace(declared, shape=(None, None))
    return replace(declared, shape=(None, *declared.shape[1:]))


def _unpadded(row: Feeds) -> Feeds:
    """A sample without its padding, and without its mask, which is made anew."""
    mask = row.get("attention_mask")
    if mask is None or mask.ndim != 1:
        return row
    masked = [name for name, array in row.items() if array.shape == mask.shape]
    if len(masked) < 2:
        return row
    cut = _cut(row, masked, mask.astype(bool))
    del cut["attention_mask"]
    return cut


def _cut(arrays: Feeds, names: Iterable[str], where: Any) -> Feeds:
    """Arrays of which those of some names are indexed along their first axis."""
    cut = dict(arrays)
    for name in names:
        cut[name] = arrays[name][where]
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
    has_types = types in set(names_of(inputs))
    rows: list[Feeds] = []
    for row_ids, row_types in zip(tokens.ids, tokens.types, strict=True):
        row = {ids: row_ids, types: row_types}
        rows.append(row if has_types else {ids: row_ids})
    return rows


def _joined(rows: list[Feeds], data: Path, inputs: Sequence[Input]) -> list[Feeds]:
    """Sequences joined end to end and cut to the length of a model that takes no other."""
    sequences = _sequences(inputs)
    if not rows[0].keys() <= sequences.keys():
        return rows
    fixed = next((sequences[name] for name in sequences if name in rows[0] and sequences[name]), None)
    if fixed is None:
        return rows
    total = sum(map(_length, rows))
    if total < fixed:
        raise UsageError(f"{total} tokens are too few", where=str(data), why=f"the model takes {fixed} at a time")
    long = {name: np.concatenate(_arrays(rows, name)) for name in rows[0]}
    return [_cut(long, long, slice(start, start + fixed)) for start in range(0, total - fixed + 1, fixed)]


def _arrays(rows: Sequence[Feeds], name: str) -> list[np.ndarray[Any, Any]]:
    """The arrays of one input in all samples."""
    return [row[name] for row in rows]


def _sequences(inputs: Iterable[Input]) -> dict[str, int | None]:
    """The inputs that have a number per token, and the length that each takes; None where that is free."""
    lengths: dict[str, int | None] = {}
    for declared in inputs:
        if _is_sequence(declared):
            size = declared.shape[1]
            lengths[declared.name] = size if isinstance(size, int) else None
    return lengths


def _is_sequence(declared: Input) -> bool:
    """Whether an input has a number per token: token ids, their types, mask and positions."""
    return len(declared.shape) == 2 and declared.dtype.kind in "iub"


def _length(row: Feeds) -> int:
    return max((len(array) for array in row.values() if array.ndim == 1), default=1)
