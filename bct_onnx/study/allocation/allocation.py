"""Formats for the tensors of a model, chosen so that all take no more than a size and make least noise."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import onnx_ir as ir

from bct_onnx.base import Pass
from bct_onnx.quant import allocate as knapsack
from bct_onnx.storable import ALLOTTED, pattern
from bct_onnx.storing import StoringPass
from bct_onnx.study.allocation.options import NoiseTable, Option, TensorOptions

_KEY = "bct_onnx.allocation"


@dataclasses.dataclass(frozen=True)
class Allocation:
    """A format for every tensor.

    Attributes:
        table: What it was chosen from.
        chosen: The option of each of the table's tensors, in their order.
    """

    table: NoiseTable
    chosen: tuple[Option, ...]

    def leave(self, model: ir.Model) -> None:
        """Put each tensor's formats beside it, and all of this beside the graph."""
        for tensor, option in self.pairs:
            model.graph.initializers[tensor.name].meta[ALLOTTED] = option.formats
        model.graph.meta[_KEY] = self

    @classmethod
    def of(cls, model: ir.Model) -> Allocation | None:
        """What was left beside the graph of a model; None where nothing was allotted."""
        allocation = model.graph.meta.get(_KEY)
        if isinstance(allocation, Allocation):
            return allocation
        return None

    @property
    def bits(self) -> int:
        """Predicted bits of all that the result stores, at most."""
        return self.table.fixed_bits + sum(option.bits for option in self.chosen)

    @property
    def ratio(self) -> float:
        """Predicted times smaller than fp32 by parameters, at least."""
        return self.table.ratio(self.bits)

    @property
    def noise(self) -> float:
        """Predicted noise of the outputs, that of activations left out."""
        return sum(option.noise for option in self.chosen)

    @property
    def pairs(self) -> Iterable[tuple[TensorOptions, Option]]:
        """Each tensor with its option."""
        return zip(self.table.tensors, self.chosen, strict=True)

    def formats(self) -> dict[str, tuple[str, ...]]:
        """Entries of the option ``formats`` by the name of the pass."""
        entries: dict[str, tuple[str, ...]] = {}
        for tensor, option in self.pairs:
            entries[tensor.by] = (*entries.get(tensor.by, ()), *_entries(tensor, option))
        return entries

    def recipe(self, model: str, passes: Iterable[Pass], target: str) -> str:
        """A recipe (TOML) that stores each tensor so without measuring, with what is known of each.

        Args:
            model: Name of the model, for the reader.
            passes: What was asked for, the allocation and the target's passes left out.
            target: The runtime to lower for.
        """
        passes = tuple(passes)
        lines = [
            f"# formats for {_line(model)}: predicted {self.ratio:.2f}x smaller by parameters, "
            f"{self.bits / self.table.parameters:.3f} bits per parameter,",
            f"# {self.bits} bits in all ({self.table.fixed_bits} of them not in blocks); predicted noise of the "
            "outputs by weights",
            f"# {self.noise:.3g} ({self.table.unit}, on {_line(self.table.source)}).",
            f"passes = {_string(','.join(map(str, passes)))}",
            f"target = {_string(target)}",
        ]
        for name in self.formats():
            lines += ["", f"[options.{name}]", "formats = ["]
            for tensor, option in self.pairs:
                if tensor.by == name:
                    lines += self._lines(tensor, option)
            for one in passes:
                if one.name == name and isinstance(one, StoringPass):
                    lines += [f"  {_string(entry)}," for entry in one.formats]
            lines.append("]")
        return "\n".join(lines) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        least, most = self.table.reachable
        tensors = []
        for tensor, option in self.pairs:
            tensors.append(
                {
                    "name": tensor.name,
                    "pass": tensor.by,
                    "shape": list(tensor.shape),
                    "formats": list(option.formats),
                    "bits": option.bits,
                    "bits_per_value": option.bits / tensor.values,
                    "noise": option.noise,
                }
            )
        return {
            "ratio": self.ratio,
            "bits": self.bits,
            "bits_per_weight": self.bits / self.table.parameters,
            "parameters": self.table.parameters,
            "fixed_bits": self.table.fixed_bits,
            "noise": self.noise,
            "noise_unit": self.table.unit,
            "measured_on": self.table.source,
            "unseen_tokens": self.table.unseen,
            "reachable_ratios": [self.table.ratio(most), self.table.ratio(least)],
            "tensors": tensors,
        }

    def _lines(self, tensor: TensorOptions, option: Option) -> list[str]:
        share = option.noise / self.noise if self.noise else 0.0
        comment = f"{option.bits / tensor.values:.3f} bits each, noise {option.noise:.2e}, {100 * share:.1f} %"
        if any(text.startswith("@") for text in option.formats):
            comment = f"{comment}; {option}"
        first, *others = (f"  {_string(entry)}," for entry in _entries(tensor, option))
        return [f"{first}  # {comment}", *others]


def allocate(table: NoiseTable, bits: int) -> Allocation:
    """The formats of least noise with which the whole model takes at most so many bits.

    Raises:
        ValueError: It takes more with any formats.
    """
    chosen = knapsack.allocate(table.choices, bits - table.fixed_bits)
    options = tuple(tensor.options[at] for tensor, at in zip(table.tensors, chosen, strict=True))
    return Allocation(table, options)


def _entries(tensor: TensorOptions, option: Option) -> list[str]:
    return [f"{text}:{pattern(tensor.name)}" for text in option.formats]


def _string(text: str) -> str:
    """A TOML string: JSON's escapes are TOML's, but for surrogates and DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _line(text: str) -> str:
    """Safe in a comment."""
    return "".join(character if character.isprintable() else "?" for character in text)
