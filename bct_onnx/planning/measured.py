"""What was measured of a model: for each tensor its formats, what each takes and its noise. Plain data."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from bct_onnx.errors import UsageError
from bct_onnx.quant.allocate import Choice, span

MARGIN = 0.001
"""Share of a target that is left: how many channels need a factor of their own hangs on what calibrate reads."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One way to store a tensor.

    Attributes:
        formats: Without names: ``3/32``, or ``4/32@0-4096`` for a range of a table's rows.
        bits: Stored bits in all.
        noise: What it adds to the noise of the outputs.
    """

    formats: tuple[str, ...]
    bits: int
    noise: float

    @property
    def choice(self) -> Choice:
        """For `bct_onnx.quant.allocate`."""
        return Choice(self.bits, self.noise)


@dataclasses.dataclass(frozen=True)
class Item:
    """A tensor and its options.

    Attributes:
        name: Of the initializer.
        by: Name of the pass that stores it.
        shape: As the pass stores it, [K, N].
        options: Ways to store it.
    """

    name: str
    by: str
    shape: tuple[int, int]
    options: tuple[Option, ...]

    @property
    def values(self) -> int:
        """Number of its values."""
        return self.shape[0] * self.shape[1]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, content: dict[str, Any]) -> Item:
        """Inverse of `as_dict`.

        Raises:
            KeyError, TypeError, ValueError: The content is something else.
        """
        options = tuple(
            Option(tuple(map(str, one["formats"])), int(one["bits"]), float(one["noise"])) for one in content["options"]
        )
        if not options or not all(one.bits > 0 and 0 <= one.noise < math.inf for one in options):
            raise ValueError("no options, or impossible ones")
        rows, columns = content["shape"]
        return cls(str(content["name"]), str(content["by"]), (int(rows), int(columns)), options)


@dataclasses.dataclass(frozen=True)
class Measured:
    """All tensors of a model.

    Attributes:
        items: The tensors that can be stored in few bits.
        fixed_bits: Bits of all else.
        parameters: Of the model as it came.
        unit: What noise is counted in.
        source: What it was measured on, in words.
    """

    items: tuple[Item, ...]
    fixed_bits: int
    parameters: int
    unit: str
    source: str

    @property
    def choices(self) -> list[list[Choice]]:
        """For `bct_onnx.quant.allocate`."""
        return [[option.choice for option in item.options] for item in self.items]

    @property
    def reachable(self) -> tuple[int, int]:
        """Bits of the whole model: the least, and those beyond which nothing gets better."""
        least, most = span(self.choices)
        return self.fixed_bits + least, self.fixed_bits + most

    def ratio(self, bits: float) -> float:
        """Times smaller than fp32 by parameters, for bits of the whole model."""
        return 32 * self.parameters / bits

    def budget(self, *, ratio: float | None = None, bits: float | None = None) -> int:
        """Bits that the tensors may take together.

        Args:
            ratio: Times smaller than fp32, everything counted.
            bits: Instead: stored bits per parameter, everything counted.

        Raises:
            UsageError: Not one of them is given, it is no positive number, or no format is small enough for it.
        """
        given = [("--target-ratio", ratio), ("--target-bits", bits)]
        named = [(name, value) for name, value in given if value is not None]
        if len(named) != 1:
            fix = "give either --target-ratio, such as 10, or --target-bits, such as 3.2"
            raise UsageError("a plan needs one target", fix=fix)
        name, value = named[0]
        if not 0 < value < float("inf"):
            raise UsageError(f"{value:g} is no target", where=name, fix="give a positive number")
        total = int(self.parameters * (32 / value if ratio is not None else value) * (1 - MARGIN))
        least, _ = self.reachable
        if total < least:
            raise UsageError(f"{value:g} cannot be reached", where=name, why=self.said(), fix="give a nearer target")
        return total - self.fixed_bits

    def said(self) -> str:
        """What can be reached, in words."""
        least, most = self.reachable
        per = self.parameters
        return (
            f"formats of this model go from {self.ratio(least):.2f}x smaller ({least / per:.2f} bits per parameter) "
            f"to {self.ratio(most):.2f}x ({most / per:.2f}); {100 * self.fixed_bits / least:.0f} % of the smallest are "
            "no weights in blocks"
        )
