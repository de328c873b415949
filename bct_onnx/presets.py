"""Presets: pipelines with a name, read from a data file; the file says how one is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from bct_onnx import toml


@dataclasses.dataclass(frozen=True)
class Preset:
    """A pipeline that users ask for by name.

    Attributes:
        passes: Its pipeline text, without the lowering that a target adds; presets and fragments may be words of it.
        audience: For whom it is, in words.
        promise: What it makes of a model, in words.
    """

    passes: str
    audience: str
    promise: str


@dataclasses.dataclass(frozen=True)
class Presets:
    """What the data file holds, in its order.

    Attributes:
        presets: By name; the first is the default.
        words: The pipeline text that each word of the pipeline language stands for: presets and fragments of them.
        ingredients: Pipeline texts of replacements to be tried alone, by name.
    """

    presets: Mapping[str, Preset]
    words: Mapping[str, str]
    ingredients: Mapping[str, str]


def read(file: Path) -> Presets:
    """The presets, fragments and ingredients of a data file."""
    content = toml.loads(file.read_text(encoding="utf-8"))
    presets = {name: Preset(**entry) for name, entry in content["presets"].items()}
    words = {name: entry["passes"] for name, entry in (content["presets"] | content["fragments"]).items()}
    return Presets(presets, {name: "".join(text.split("\n")) for name, text in words.items()}, content["ingredients"])
