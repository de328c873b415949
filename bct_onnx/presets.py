"""Presets: pipelines with a name, read from a data file; the file says how one is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bct_onnx import toml


@dataclasses.dataclass(frozen=True)
class Preset:
    """A pipeline that users ask for by name.

    Attributes:
        passes: Its pipeline text, without the lowering that a target adds; presets and fragments may be words of it.
        audience: For whom it is, in words.
        promise: What it makes of a model, in words.
        measured: What it made of the model that `Measurement` names; None where nobody has measured it.
    """

    passes: str
    audience: str
    promise: str
    measured: Measured | None = None


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a preset made of one model.

    Attributes:
        megabytes: The file's size, in 10^6 bytes.
        points_lost: Of the model's score, which is of 100.
        times_faster: Than ONNX Runtime's fp32, by medians.
    """

    megabytes: float
    points_lost: float
    times_faster: float


@dataclasses.dataclass(frozen=True)
class Measurement:
    """How the presets were measured: the model as it came, what it is scored on, the machine, the commit."""

    model: str
    score: str
    speed: str
    machine: str
    commit: str


@dataclasses.dataclass(frozen=True)
class Presets:
    """What the data file holds, in its order.

    Attributes:
        presets: By name; the first is the default.
        words: The pipeline text that each word of the pipeline language stands for: presets and fragments of them.
        synonyms: Names that other tools have for a preset.
        measurement: How the presets were measured.
        ingredients: Pipeline texts of replacements to be tried alone, by name.
    """

    presets: Mapping[str, Preset]
    words: Mapping[str, str]
    synonyms: Mapping[str, str]
    measurement: Measurement
    ingredients: Mapping[str, str]


def read(file: Path) -> Presets:
    """The presets, fragments and ingredients of a data file."""
    content = toml.loads(file.read_text(encoding="utf-8"))
    presets = {name: _preset(entry) for name, entry in content["presets"].items()}
    words = {name: entry["passes"] for name, entry in (content["presets"] | content["fragments"]).items()}
    words |= content["synonyms"]
    words = {name: "".join(text.split("\n")) for name, text in words.items()}
    return Presets(presets, words, content["synonyms"], Measurement(**content["measurement"]), content["ingredients"])


def _preset(entry: dict[str, Any]) -> Preset:
    measured = entry.pop("measured", None)
    return Preset(**entry, measured=None if measured is None else Measured(**measured))
