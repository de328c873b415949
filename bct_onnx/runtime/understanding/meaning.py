"""What an input can mean: by what the graph does with it, and by its name where that leaves it open."""

from __future__ import annotations

import dataclasses
import re

import ml_dtypes

from bct_onnx.runtime.inputs import Input
from bct_onnx.runtime.understanding.uses import Uses

DEFAULT_VOCABULARY = 100  # small enough for any trained model, whose table could not be found


@dataclasses.dataclass(frozen=True)
class Meaning:
    """How values of an input are made.

    Attributes:
        kind: One of `CONTENT` or of the kinds that say how to read it: ``types``, ``positions``, ``past``, ``branch``,
            ``mask``, ``length``, ``part``, ``cumulative``, ``total``, ``seqlens``, ``picks``, ``setting``, ``state``,
            ``other``.
        below: Token ids and their types stay below it.
        valid: What a mask has where nothing is hidden; the value of a setting, or those of its elements.
        hidden: What it has where something is.
        shift: Subtracted from a length.
        divisor: A length is so many times shorter than the axis that it measures.
        of: Inputs whose axis a length measures.
        affine: Factor and term that the model gives a signal first.
        is_positive: Whether the model takes logarithms or roots of it.
        words: What texts are made of.
        joint: What stands between the words of a text; empty where each element is one word.
        is_sure: Whether anything tells so; a guess is none.
    """

    kind: str
    below: int = DEFAULT_VOCABULARY
    valid: float | tuple[float, ...] = 1.0
    hidden: float = 0.0
    divisor: float = 1.0
    of: tuple[str, ...] = ()
    affine: tuple[float, float] = (1.0, 0.0)
    is_positive: bool = False
    words: tuple[str, ...] = ()
    joint: str = ""
    is_sure: bool = True

    @property
    def is_content(self) -> bool:
        """Whether outputs have to depend on it."""
        return self.kind in CONTENT

    def said(self) -> str:
        """In words, for the report."""
        if self.kind == "ids":
            return f"rows of a table of {self.below}"
        if self.kind == "mask":
            return f"a mask, {self.hidden:g} hides"
        if self.kind in ("setting", "branch"):
            return str(self.valid)
        return SAID.get(self.kind, self.kind)


CONTENT = frozenset(("ids", "text", "image", "audio", "features", "embeds"))
"""Kinds whose values are what the model is asked about."""

ENGLISH = ("the", "of", "and", "in", "is", "new", "water", "people", "never", "good", "house", "three")
"""Words for a model that knows none by itself."""

SAID = {
    "text": "text",
    "image": "pictures",
    "audio": "sound",
    "features": "a signal",
    "embeds": "normal numbers",
    "length": "lengths",
    "part": "lengths as parts of the longest",
    "picks": "places in the sequence",
    "cumulative": "where sequences begin and end",
    "total": "the length with the cache",
    "seqlens": "the last position of each row",
    "state": "zeros to start with",
    "other": "not understood",
}

KINDS = (
    ("branch", r"use_cache"),
    ("past", r"past|cache\.|\bpkv|key_cache|value_cache"),
    ("mask", r"mask"),
    ("types", r"token_type|segment_ids"),
    ("positions", r"position|^pos$|^pos_ids"),
    ("image", r"pixel_values|image"),
    ("features", r"input_features"),
    ("audio", r"input_values|audio|waveform"),
    ("ids", r"ids|tokens"),
)
"""What names say, the first that fits."""

LENGTH_NAMES = r"len(gth)?s?$|_len(gth)?s?_|^len"
CUMULATIVE_NAMES = r"cu_?seq|cumul|offsets|boundar|row_splits"
EMBEDDING_NAMES = r"embed|hidden_state|encoder_output|memory|style|speaker|spk"
STATE_NAMES = r"(^|_)(states?|hx|cx|h0|c0|hn|cn)(_?\d+|_in)?$|cached"


def kind_by_name(name: str) -> str:
    """What an input is for, from its name alone.

    >>> [kind_by_name(name) for name in ("attention_mask", "past_key_values.0.key", "x")]
    ['mask', 'past', 'other']
    """
    return next((kind for kind, pattern in KINDS if re.search(pattern, name.lower())), "other")


def is_floating(declared: Input) -> bool:
    """Whether an input takes floating-point numbers."""
    return declared.dtype.kind == "f" or declared.dtype == ml_dtypes.bfloat16


def unknown_text() -> Meaning:
    """Text of which the graph does not tell what it is made of."""
    return Meaning("text", words=ENGLISH, joint=" ", is_sure=False)


def by_name(declared: Input, below: int | None = None) -> Meaning:
    """The meaning of an input of which nothing but its declaration is known.

    Masks show everything, integers that are none of the usual inputs are zeros, floats are normal noise.
    """
    kind, rank = kind_by_name(declared.name), len(declared.shape)
    if declared.dtype.kind == "O":
        return unknown_text()
    if is_floating(declared):
        if kind == "mask" and rank != 2:  # a term added to the scores
            return Meaning("mask", valid=0.0, hidden=-1e4)
        if kind not in ("mask", "past", "image", "audio", "features"):
            kind = "embeds"
    elif kind not in ("branch", "mask", "types", "positions", "ids", "past") or (kind == "positions" and rank == 0):
        kind = "other"
    valid = 0.0 if kind == "branch" else 1.0
    return Meaning(kind, DEFAULT_VOCABULARY if below is None else below, valid, is_sure=kind != "other")


def readings(declared: Input, uses: Uses) -> tuple[Meaning, ...]:
    """What an input can mean, the likeliest first; one reading where nothing else is possible."""
    if is_floating(declared):
        return _of_floats(declared, uses)
    if declared.dtype.kind == "b":
        return _of_booleans(declared)
    return _of_integers(declared, uses)


def _of_floats(declared: Input, uses: Uses) -> tuple[Meaning, ...]:
    kind, rank, name = kind_by_name(declared.name), len(declared.shape), declared.name.lower()
    if kind == "past":
        return (Meaning("past"),)
    if uses.rows and rank:  # exporters of other frameworks declare every input as float
        return (Meaning("ids", uses.rows),)
    is_asked = rank == 2 and bool(uses.arrives & {"compared", "mask"}) and not uses.arrives & {"audio", "image"}
    if (kind == "mask" or is_asked or "bias" in uses.arrives) and rank:
        added, factor = Meaning("mask", valid=0.0, hidden=-1e4), Meaning("mask")
        hides = Meaning("mask", valid=0.0, hidden=1.0)
        if rank == 2 and "bias" not in uses.arrives:
            return (factor, hides, added)
        return (added, factor, hides)
    if rank >= 2 and re.search(STATE_NAMES, name):
        return (Meaning("state"),)
    if re.search(EMBEDDING_NAMES, name):
        return (Meaning("embeds"),)
    is_picture = "image" in uses.arrives or kind == "image"
    if is_picture and (rank == 4 or (rank == 3 and _channel_axis(declared) is not None)):
        return (Meaning("image", affine=uses.affine),)
    single = rank <= 2 or (rank == 3 and declared.shape[1] == 1)
    if ("audio" in uses.arrives or kind == "audio") and single and rank:
        return (Meaning("audio", affine=uses.affine),)
    if rank == 1 and {"part", "length"} <= uses.arrives:
        return (Meaning("part"),)
    if rank == 0 or (rank == 1 and not _is_long(declared.shape[0])):
        return (Meaning("setting"), Meaning("setting", valid=0.5), Meaning("setting", valid=0.0))
    kind = "features" if rank >= 3 else "embeds"
    return (Meaning(kind, affine=uses.affine, is_positive="positive" in uses.arrives),)


def _of_booleans(declared: Input) -> tuple[Meaning, ...]:
    if kind_by_name(declared.name) == "branch" or not declared.shape or declared.shape == (1,):
        return (Meaning("branch", valid=0.0), Meaning("branch"))
    return _masks(declared)


def _of_integers(declared: Input, uses: Uses) -> tuple[Meaning, ...]:
    kind, rank = kind_by_name(declared.name), len(declared.shape)
    if kind in ("branch", "past", "types"):
        return (Meaning(kind, uses.rows or 1, valid=0.0 if kind == "branch" else 1.0),)
    if kind == "mask" and rank:
        return _masks(declared)
    if uses.arrives & {"total", "seqlens"}:
        return (Meaning("total" if "total" in uses.arrives else "seqlens"),)
    if rank >= 3 and ("image" in uses.arrives or kind == "image" or declared.dtype.itemsize == 1):
        return (Meaning("image", affine=uses.affine),)
    if kind == "positions" and rank:
        return (Meaning("positions"),)
    if rank <= 1:
        return _counted(declared, uses)
    return _in_rows(declared, uses)


def _counted(declared: Input, uses: Uses) -> tuple[Meaning, ...]:
    """What a single integer, or one for each row, can be."""
    name, kind = declared.name.lower(), kind_by_name(declared.name)
    ids = (Meaning("ids", uses.rows),) if uses.rows else ()
    is_length = re.search(LENGTH_NAMES, name) is not None or "length" in uses.arrives
    if is_length and kind != "ids":
        return (*_lengths(declared, uses), *ids)
    if ids or (kind == "ids" and declared.shape):
        return ids or (Meaning("ids"),)
    if "branch" in uses.arrives:  # how often a loop runs, or whether a branch is taken
        return (Meaning("setting", valid=2.0), Meaning("setting", valid=0.0))
    if uses.constants:
        return tuple(Meaning("setting", valid=value) for value in uses.constants)
    if "position" in uses.arrives and declared.shape:
        return (Meaning("positions"),)
    if uses.arrives & {"size", "pick"} or re.search(CUMULATIVE_NAMES, name):
        return _lengths(declared, uses)
    if "seed" in name:
        return (Meaning("setting", valid=0.0),)
    return _guesses()


def _in_rows(declared: Input, uses: Uses) -> tuple[Meaning, ...]:
    """What integers with a number per token can be."""
    if uses.rows or kind_by_name(declared.name) == "ids":
        return (Meaning("ids", uses.rows or DEFAULT_VOCABULARY),)
    if "length" in uses.arrives:
        return (Meaning("positions"), *_lengths(declared, uses))
    if uses.arrives & {"mask", "compared", "bias", "summed"}:
        is_term = "bias" in uses.arrives and declared.dtype.kind == "i" and declared.dtype.itemsize > 1
        return (*_masks(declared), *(Meaning("mask", valid=0.0, hidden=-1e4),) * is_term)
    if "position" in uses.arrives:
        return (Meaning("positions"),)
    if "pick" in uses.arrives:
        return (Meaning("picks"), *_lengths(declared, uses))
    if "size" in uses.arrives:
        return _lengths(declared, uses)
    if declared.dtype.itemsize <= 2:
        return (Meaning("audio"),)
    return _guesses()


def _guesses() -> tuple[Meaning, ...]:
    """What nothing tells."""
    kinds = (Meaning("setting", valid=0.0), Meaning("setting"), Meaning("length"))
    return tuple(dataclasses.replace(meaning, is_sure=False) for meaning in kinds)


def _lengths(declared: Input, uses: Uses) -> tuple[Meaning, ...]:
    """Whole lengths, those of axes that the model has made shorter, and ends of sequences laid end to end."""
    whole = [Meaning("length", of=uses.beside, divisor=by) for by in (1, 2, 4, 8)]
    ends = Meaning("cumulative", of=uses.beside)
    if len(declared.shape) != 1:
        return tuple(whole)
    is_cumulative = re.search(CUMULATIVE_NAMES, declared.name.lower()) is not None
    if is_cumulative:
        return (ends, *whole)
    return (*whole, ends)


def _masks(declared: Input) -> tuple[Meaning, ...]:
    """Both ways round; PyTorch and fairseq call a mask one of padding where true hides."""
    shows, hides = Meaning("mask"), Meaning("mask", valid=0.0, hidden=1.0)
    if re.search(r"pad", declared.name.lower()):
        return (hides, shows)
    return (shows, hides)


def _channel_axis(declared: Input) -> int | None:
    """The axis of one, three or four colours."""
    rank = len(declared.shape)
    return next((axis for axis in (rank - 3, rank - 1) if declared.shape[axis] in (1, 3, 4)), None)


def channel_axis(declared: Input) -> int:
    """The axis of an image's colours; the first of its last three where none has a size that tells."""
    axis = _channel_axis(declared)
    if axis is None:
        return len(declared.shape) - 3
    return axis


def _is_long(dim: int | str | None) -> bool:
    return dim is None or isinstance(dim, str) or dim > 16
