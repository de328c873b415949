"""What was measured of a model: for each tensor its formats, what each takes and its noise. Plain data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from bct_onnx.errors import UsageError
from bct_onnx.quant import mixed
from bct_onnx.quant.allocate import Choice, span

MARGIN = 0.001
"""Share of a target that is left for what later passes add: scales of activations and the like."""


UNSEEN = 0.12
"""Share of unseen tokens above which more texts are asked for."""


@dataclasses.dataclass(frozen=True)
class Format:
    """Bits and block of a tensor."""

    bits: int
    block: int | tuple[int, int]

    def __str__(self) -> str:
        if isinstance(self.block, tuple):
            return f"{self.bits}/{'x'.join(map(str, self.block))}"
        return f"{self.bits}/{self.block}"


@dataclasses.dataclass(frozen=True)
class Option(Choice):
    """One way to store a tensor: its bits in all, what it adds to the noise of the outputs, and its formats.

    Attributes:
        formats: Without names: ``3/32``, or ``@6(20)31`` for the widths of a table's rows.
    """

    formats: tuple[str, ...]

    def __str__(self) -> str:
        """The formats, for a reader: of widths, how many rows have which."""
        words: list[str] = []
        for text in self.formats:
            words.append(mixed.describe(mixed.parse_widths(text[1:])) if text.startswith("@") else text)
        return " ".join(words)


@dataclasses.dataclass(frozen=True)
class TensorOptions:
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

    @classmethod
    def of(cls, content: dict[str, Any]) -> TensorOptions:
        """Inverse of `dataclasses.asdict`.

        Raises:
            KeyError, TypeError, ValueError: The content is something else.
        """
        options: list[Option] = []
        for option in content["options"]:
            bits, noise = int(option["bits"]), float(option["noise"])
            if bits <= 0 or not 0 <= noise < math.inf:
                raise ValueError("an option that is impossible")
            options.append(Option(bits, noise, tuple(map(str, option["formats"]))))
        if not options:
            raise ValueError("no options")
        rows, columns = content["shape"]
        return cls(str(content["name"]), str(content["by"]), (int(rows), int(columns)), tuple(options))


@dataclasses.dataclass(frozen=True)
class NoiseTable:
    """All tensors of a model.

    Attributes:
        tensors: Those that can be stored in few bits.
        fixed_bits: Bits of all else.
        parameters: Of the model as it came.
        unit: What noise is counted in.
        source: What it was measured on, in words.
        unseen: Share of the tokens of a part of the user's data that the rest does not have; None without data.
    """

    tensors: tuple[TensorOptions, ...]
    fixed_bits: int
    parameters: int
    unit: str
    source: str
    unseen: float | None = None

    @classmethod
    def of(cls, content: dict[str, Any]) -> NoiseTable:
        """Inverse of `dataclasses.asdict`.

        Raises:
            KeyError, TypeError, ValueError: The content is something else.
        """
        tensors = tuple(map(TensorOptions.of, content["tensors"]))
        fixed_bits, parameters = int(content["fixed_bits"]), int(content["parameters"])
        unseen = None if content["unseen"] is None else float(content["unseen"])
        return cls(tensors, fixed_bits, parameters, str(content["unit"]), str(content["source"]), unseen)

    @property
    def coverage(self) -> str:
        """What the user's data says of the tokens of other texts, in words; empty without data."""
        if self.unseen is None:
            return ""
        told = f"{100 * self.unseen:.1f} % of the tokens of a tenth of the texts are not in the others"
        if self.unseen <= UNSEEN:
            return told
        return f"{told}: more calibration texts would tell better which rows of the tables count"

    @property
    def choices(self) -> list[Sequence[Choice]]:
        """For `bct_onnx.quant.allocate`."""
        return [tensor.options for tensor in self.tensors]

    @property
    def reachable(self) -> tuple[int, int]:
        """Bits of the whole model: the least, and those beyond which nothing gets better."""
        least, most = span(self.choices)
        return self.fixed_bits + least, self.fixed_bits + most

    def ratio(self, bits: float) -> float:
        """Times smaller than fp32 by parameters, for bits of the whole model."""
        return 32 * self.parameters / bits

    def total(self, ratio: float, bits: float = 0.0) -> int:
        """Bits that the whole model may take.

        Args:
            ratio: Times smaller than fp32, everything counted.
            bits: Instead, unless it is 0: stored bits per parameter, everything counted.

        Raises:
            UsageError: No format is small enough for it.
        """
        total = int(self.parameters * (bits or 32 / ratio) * (1 - MARGIN))
        if total < self.reachable[0]:
            what = f"{bits:g} bits per parameter" if bits else f"a ratio of {ratio:g}"
            fix = "give a nearer target; --distill goes farther, with thin tables and fewer layers that it trains"
            raise UsageError(f"{what} cannot be reached", why=self.reach(), fix=fix)
        return total

    def reach(self) -> str:
        """What can be reached, in words."""
        least, most = self.reachable
        per = self.parameters
        return (
            f"formats of this model go from {self.ratio(least):.2f}x smaller ({least / per:.2f} bits per parameter) "
            f"to {self.ratio(most):.2f}x ({most / per:.2f}); {100 * self.fixed_bits / least:.0f} % of the smallest are "
            "no weights in blocks"
        )
