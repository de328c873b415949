"""Token batches into a model and its output back, whatever it declares: fixed sizes, no mask, a key-value cache."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from bct_onnx.errors import UsageError
from bct_onnx.graph.known import sized
from bct_onnx.graph.names import names_of
from bct_onnx.runtime.feeds import Feeds, random_feeds
from bct_onnx.runtime.inputs import Input, cache_names, ids_input, inputs_of
from bct_onnx.runtime.session import run
from bct_onnx.tasks.tokens import Array, Batch


@dataclass(frozen=True)
class Cached:
    """A decoder to be fed `step` tokens at a time through its key-value cache, as in generation."""

    session: ort.InferenceSession
    step: int = 1


class Feeder:
    """Runs one model on batches and adds up the time ONNX Runtime takes.

    Args:
        model: The model, or a decoder with how to use its cache.
        output: Name of the output to return.
        pad: Token id for padding.

    Raises:
        UsageError: The model has no input of token ids, or no cache where one is to be used.
    """

    def __init__(self, model: ort.InferenceSession | Cached, output: str, pad: int) -> None:
        self._session = model.session if isinstance(model, Cached) else model
        self._step = model.step if isinstance(model, Cached) else None
        self._inputs = inputs_of(self._session)
        self._ids = ids_input(self._inputs)
        self._cache = cache_names(self._session) if self._step else {}
        if self._step and not self._cache:
            raise UsageError("the model has no key-value cache", why=f"inputs are {', '.join(names_of(self._inputs))}")
        self._output, self._pad = output, pad
        self.seconds = 0.0

    def outputs(self, batch: Batch) -> Iterator[tuple[Batch, Array]]:
        """The batch in the pieces this model can take, each with its output [rows, ...].

        Raises:
            UsageError: A sequence does not fit into the model.
            TargetError: The model fails to run.
        """
        for piece in pieces(batch, self._inputs, self._pad):
            yield piece, self._whole(piece) if self._step is None else self._stepwise(piece, self._step)

    def _whole(self, piece: Batch) -> Array:
        (output,) = self._run(feeds_of(piece, self._inputs), [self._output])
        return output

    def _stepwise(self, piece: Batch, step: int) -> Array:
        (rows, length), outputs, cache = piece.ids.shape, [], Feeds()
        for start in range(0, length, step):
            end = min(start + step, length)
            part = Batch(piece.index, piece.ids[:, start:end], piece.mask[:, :end], piece.types[:, start:end])
            feeds = random_feeds(self._inputs, batch=rows, sequence=end - start)
            for name in feeds:
                if "position" in name:
                    feeds[name] = feeds[name] + start
                elif name == "use_cache_branch":  # one file for both: the first step has no past
                    feeds[name] = np.full_like(feeds[name], start > 0)
            feeds = _with_tokens(feeds, part, self._ids) | cache
            output, *cached = self._run(feeds, [self._output, *self._cache.values()])
            cache = dict(zip(self._cache, cached, strict=True))
            outputs.append(output)
        return np.concatenate(outputs, axis=1)

    def _run(self, feeds: Feeds, names: Sequence[str]) -> list[Array]:
        start = time.perf_counter()
        outputs = run(self._session, feeds, names)
        self.seconds += time.perf_counter() - start
        return outputs


def feeds_of(piece: Batch, inputs: Sequence[Input]) -> Feeds:
    """The inputs of one run: the tokens of the batch, and what else the model declares: empty caches, positions."""
    rows, length = piece.ids.shape
    return _with_tokens(random_feeds(inputs, batch=rows, sequence=length), piece, ids_input(inputs))


def _with_tokens(feeds: Feeds, piece: Batch, ids: Input) -> Feeds:
    ours = {ids.name: piece.ids, "attention_mask": piece.mask, "token_type_ids": piece.types}
    return feeds | {name: array.astype(feeds[name].dtype) for name, array in ours.items() if name in feeds}


def pieces(batch: Batch, inputs: Sequence[Input], pad: int) -> Iterator[Batch]:
    """The batch as a model can take it: in its fixed sizes, and in equal lengths when it has no mask for padding.

    Raises:
        UsageError: A sequence does not fit into the model, or the model takes no token ids.
    """
    masked = "attention_mask" in names_of(inputs)
    rows, length = sized(ids_input(inputs).shape, None)
    lengths = batch.mask.sum(axis=1)
    groups = [np.arange(len(lengths))] if masked else [np.flatnonzero(lengths == n) for n in np.unique(lengths)]
    for group in groups:
        width = max(1, int(lengths[group].max()))
        if length is not None and (width > length or (not masked and width < length)):
            raise UsageError(
                f"a sequence of {width} tokens does not fit a model with a fixed length of {length}",
                fix="lower --max-length, or export the model with a dynamic sequence length",
            )
        for start in range(0, len(group), rows or len(group)):
            part = group[start : start + (rows or len(group))]
            fill = np.resize(part, rows or len(part))
            grow = ((0, 0), (0, (length or width) - width))
            ids = np.pad(batch.ids[fill, :width], grow, constant_values=pad)
            mask, types = (np.pad(array[fill, :width], grow) for array in (batch.mask, batch.types))
            yield Batch(batch.index[part], ids, mask, types)
