"""Batches of texts to check a result with: of the data that calibrates it, but none of those that did.

Random tokens say how far outputs are apart on random tokens: a model that was calibrated on text may be 4 dB better on
text. Batches are as clients send them: texts of several lengths, padded at the right, and a mask that says where.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bct_onnx.errors import UsageError
from bct_onnx.graph.known import sizes_of
from bct_onnx.graph.names import names_of
from bct_onnx.graph.padding.record import Removed
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.inputs import Input, ids_input, inputs_of
from bct_onnx.tasks import own_text
from bct_onnx.tasks.calibration import CalibrationData
from bct_onnx.tasks.feeding import feeds_of
from bct_onnx.tasks.tokens import Batch, TextTokenizer

LEAST = 2
"""Texts that a check is worth."""


class HeldBack:
    """Texts of the data that a calibration is given, which it leaves out.

    Args:
        given: What it is given.
        inputs: What the model declares.

    Attributes:
        source: In words, where they come from.
        mask: The input that says which tokens are none.
    """

    mask = "attention_mask"

    def __init__(self, given: CalibrationData, inputs: tuple[Input, ...]) -> None:
        self._given, self._inputs, self._ids = given, inputs, ids_input(inputs).name
        self._rows: dict[int, tuple[Feeds, ...]] = {}
        self._pad = TextTokenizer(given.tokenizer).pad if given.tokenizer is not None else 0
        assert given.file is not None
        held = f"{len(self.rows(8))} texts"
        self.source = f"{held} of {given.file.name} held back from calibration"
        if given.is_own:
            self.source = f"English text of ours, {held} that calibrated nothing"

    def rows(self, length: int) -> tuple[Feeds, ...]:
        """The texts cut to a number of tokens, special ones included."""
        if length not in self._rows:
            self._rows[length] = self._given.held_back(self._inputs, length).rows
        return self._rows[length]

    def unread(self, names: Sequence[str]) -> Removed:
        """Outputs at padding, which no client reads."""
        return Removed(self.mask, False, tuple(names))

    def feeds(self, batch: int, length: int, seed: int) -> Feeds:
        """A batch of texts, other ones for another seed, of so many tokens with padding."""
        rows, shape = self.rows(length), (batch, length)
        ids, mask, types = np.full(shape, self._pad), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for at in range(batch):
            row = rows[(seed * batch + at) % len(rows)]
            tokens = row[self._ids]
            ids[at, : len(tokens)], mask[at, : len(tokens)] = tokens, 1
            types[at, : len(tokens)] = row.get("token_type_ids", 0)
        return feeds_of(Batch(np.arange(batch), ids, mask, types), self._inputs)


def held_back(given: CalibrationData, model: ir.Model) -> HeldBack | None:
    """The texts to check a model with; None where it is not calibrated on text, or the data is too small to spare any.

    Models of fixed sizes, without a mask, or with inputs that are not made of tokens have none either.
    """
    if given.file is None or (given.tokenizer is None and given.file.suffix != ".npz"):
        return None
    inputs = tuple(inputs_of(model))
    try:
        ids = ids_input(inputs)
        if sizes_of(ids.shape) or HeldBack.mask not in set(names_of(inputs)):
            return None
        if given.is_own and own_text.refusal(model, given.tokenizer or own_text.FILE.parent):
            return None
        texts = HeldBack(given, inputs)
    except UsageError:  # calibrate says so too
        return None
    rows = texts.rows(8)
    if len(rows) >= LEAST and all(set(row) <= {ids.name, "token_type_ids"} for row in rows):
        return texts
    return None
