"""Plans: how many bits each tensor of a model gets, so that all take no more than a target and make least noise."""

from __future__ import annotations

import dataclasses
import glob
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bct_onnx import registry
from bct_onnx.base import Pass
from bct_onnx.errors import UsageError
from bct_onnx.pipeline import Pipeline
from bct_onnx.planning.measure import measure
from bct_onnx.planning.measured import Item, Measured, Option
from bct_onnx.planning.stored import own_formats
from bct_onnx.progress import Progress
from bct_onnx.quant.allocate import allocate


@dataclasses.dataclass(frozen=True)
class Plan:
    """A format for every tensor.

    Attributes:
        source: The model it was made for.
        pipeline: What the formats are added to.
        target: The runtime to lower for.
        measured: What it was chosen from.
        chosen: The option of each of the measured items, in their order.
    """

    source: Path
    pipeline: Pipeline
    target: str
    measured: Measured
    chosen: tuple[Option, ...]

    @property
    def bits(self) -> int:
        """Predicted bits of all that the result stores."""
        return self.measured.fixed_bits + sum(one.bits for one in self.chosen)

    @property
    def ratio(self) -> float:
        """Predicted times smaller than fp32 by parameters."""
        return self.measured.ratio(self.bits)

    @property
    def noise(self) -> float:
        """Predicted noise of the outputs, that of activations left out."""
        return sum(one.noise for one in self.chosen)

    def formats(self) -> dict[str, tuple[str, ...]]:
        """Entries of the option ``formats`` by the name of the pass."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for item, option in zip(self.measured.items, self.chosen, strict=True):
            found[item.by] += _entries(item, option)
        return {name: tuple(entries) for name, entries in found.items()}

    def passes(self) -> Pipeline:
        """The pipeline with these formats and those it had, which are for other tensors."""
        return Pipeline(tuple(each.replace(**self._options(each)) for each in self.pipeline))

    def recipe(self) -> str:
        """A recipe (TOML) that does what `passes` does, with what is known of each tensor."""
        lines = [
            f"# bct-onnx plan for {_line(self.source.name)}: predicted {self.ratio:.2f}x smaller by parameters, "
            f"{self.bits / self.measured.parameters:.3f} bits per parameter,",
            f"# {self.bits} bits in all ({self.measured.fixed_bits} of them not in blocks); predicted noise of the "
            "outputs by weights",
            f"# {self.noise:.3g} ({self.measured.unit}, on {_line(self.measured.source)}).",
            f"passes = {_string(str(self.pipeline))}",
            f"target = {_string(self.target)}",
        ]
        for name in self.formats():
            lines += ["", f"[options.{name}]", "formats = ["]
            for item, option in zip(self.measured.items, self.chosen, strict=True):
                if item.by == name:
                    lines += self._lines(item, option)
            old = next(own_formats(one) for one in self.pipeline if one.name == name)
            lines += [f"  {_string(entry)}," for entry in old] + ["]"]
        return "\n".join(lines) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        tensors = [
            {
                "name": item.name,
                "pass": item.by,
                "shape": list(item.shape),
                "formats": list(option.formats),
                "bits": option.bits,
                "bits_per_value": option.bits / item.values,
                "noise": option.noise,
            }
            for item, option in zip(self.measured.items, self.chosen, strict=True)
        ]
        least, most = self.measured.reachable
        return {
            "model": str(self.source),
            "target": self.target,
            "pipeline": str(self.passes()),
            "ratio": self.ratio,
            "bits": self.bits,
            "bits_per_weight": self.bits / self.measured.parameters,
            "parameters": self.measured.parameters,
            "fixed_bits": self.measured.fixed_bits,
            "noise": self.noise,
            "noise_unit": self.measured.unit,
            "measured_on": self.measured.source,
            "reachable_ratios": [self.measured.ratio(most), self.measured.ratio(least)],
            "tensors": tensors,
        }

    def _lines(self, item: Item, option: Option) -> list[str]:
        share = option.noise / self.noise if self.noise else 0.0
        comment = f"{option.bits / item.values:.3f} bits each, noise {option.noise:.2e}, {100 * share:.1f} %"
        first, *others = (f"  {_string(entry)}," for entry in _entries(item, option))
        return [f"{first}  # {comment}", *others]

    def _options(self, one: Pass) -> dict[str, object]:
        found = self.formats().get(one.name)
        return {} if found is None else {"formats": (*found, *own_formats(one))}


def plan(
    source: Path,
    pipeline: Pipeline,
    target: str,
    *,
    ratio: float | None = None,
    bits: float | None = None,
    progress: Progress = lambda label, done, total: None,
    cache: Path | None = None,
) -> Plan:
    """Choose the formats of least noise for a size.

    Args:
        source: The float model.
        pipeline: What to run; with the calibration data in its calibrate pass, if there is any. Tensors that it has
            formats for keep them.
        target: The runtime to lower for.
        ratio: Times smaller than fp32 by parameters, everything counted.
        bits: Instead: stored bits per parameter.
        progress: Told what is being done.
        cache: Folder where measurements are kept; None keeps nothing.

    Raises:
        UsageError: The size cannot be reached, or the calibration data cannot be used.
        InputModelError: The model cannot be used, or is quantized already.
        GateError: The pipeline quantizes no tensor of this model.
        TargetError: ONNX Runtime cannot run the model.
    """
    if (ratio is None) == (bits is None):
        raise UsageError("a plan needs one target", fix="give either a ratio, such as 10, or bits, such as 3.2")
    measured = measure(source, registry.complete(pipeline, target), progress, folder=cache)
    return planned(source, pipeline, target, measured, measured.budget(ratio=ratio, bits=bits))


def planned(source: Path, pipeline: Pipeline, target: str, measured: Measured, budget: int) -> Plan:
    """The plan of least noise whose tensors take at most ``budget`` bits."""
    chosen = allocate(measured.choices, budget)
    options = tuple(item.options[at] for item, at in zip(measured.items, chosen, strict=True))
    return Plan(source, pipeline, target, measured, options)


def _entries(item: Item, option: Option) -> Sequence[str]:
    """``3/32:name``; ``|`` joins entries in a pipeline text, and ``?`` stands for any character."""
    pattern = glob.escape(item.name).replace("|", "?")
    return [f"{one}:{pattern}" for one in option.formats]


def _string(text: str) -> str:
    """A TOML string: JSON's escapes are TOML's, but for surrogates and DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _line(text: str) -> str:
    """Safe in a comment."""
    return "".join(character if character.isprintable() else "?" for character in text)
