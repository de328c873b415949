"""English text of this package's own: what models of text are calibrated on where nobody gives data.

Random tokens show the large channels of a model, but neither what its special tokens do nor which inputs come together:
all-MiniLM-L6-v2 keeps 14.5 dB of its outputs with `bct-plus` by this text, 12.9 by random tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx_ir as ir

from bct_onnx.runtime.feeds import beside_tokens
from bct_onnx.runtime.inputs import ids_input, inputs_of
from bct_onnx.runtime.vocabulary import vocabulary
from bct_onnx.tasks.readers import read_texts
from bct_onnx.tasks.tokens import TextTokenizer

NAME = "builtin:english"
"""What it is called where data is asked for."""

FILE = Path(__file__).with_name("english.txt")
"""A text in each line: news, questions, reviews, instructions, prose; written for this purpose."""

HELD_BACK = FILE.with_name("english_held_back.txt")
"""The same to check results with: no text of it calibrates anything."""

WORDY = 3.0
"""Characters per token, at least, of a tokenizer that knows the words: of letters alone it is 1."""


def is_usable(tokenizer: Path) -> bool:
    """Whether a folder has a tokenizer."""
    return (tokenizer / "tokenizer.json").is_file()


def refusal(model: ir.Model, tokenizer: Path) -> str:
    """Why a model is not calibrated on it; empty where it is.

    Raises:
        UsageError: The model has no input of token ids, or the tokenizer cannot be read.
    """
    if find_spec("tokenizers") is None:
        return "what reads the tokenizer is not installed (pip install 'bct-onnx[text]')"
    inputs = inputs_of(model)
    ids = ids_input(inputs).name
    if strange := beside_tokens(inputs):
        return f"input '{strange[0]}' is not made of tokens"
    (texts,) = read_texts(FILE)
    return _unlike(texts, TextTokenizer(tokenizer).encode(texts).ids, vocabulary(model).get(ids, 1 << 62))


def _unlike(texts: Sequence[str], ids: Sequence[np.ndarray[tuple[int], np.dtype[np.int64]]], rows: int) -> str:
    """Why English is nothing for a tokenizer that made these ids of the texts, with a table of so many rows.

    >>> text = ["It rains in the north.", "It rains again."]
    >>> _unlike(text, [np.array([4, 9, 2, 5, 7]), np.array([4, 9, 8])], 10)
    ''
    >>> _unlike(text, [np.array([4, 9, 2, 5, 7]), np.array([4, 9, 8])], 9)
    'the tokenizer has more tokens than the model'
    """
    joined = np.concatenate(list(ids))
    if joined.max(initial=0) >= rows:
        return "the tokenizer has more tokens than the model"
    if sum(map(len, texts)) < WORDY * len(joined):
        return "the tokenizer takes English apart into letters"
    if len(np.unique(joined)) < len(joined) / 20:
        return "the tokenizer knows few English words"
    return ""
