"""The noise of tables whose rows are looked up: by how often that is, in one format and in widths of their own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bct_onnx.quant import mixed
from bct_onnx.quant.strips import slices_of
from bct_onnx.storable import Matrix, Storable
from bct_onnx.study.allocation import row_likeness, row_use, tensor_error
from bct_onnx.study.allocation.data import Counts
from bct_onnx.study.allocation.options import Format, Option
from bct_onnx.study.allocation.outputs import Outputs

KINDS = 0.00005, 0.0005, 0.005
"""Shares of the lookups that part rows into kinds, which are measured apart."""

STEEPEST = 0.5
"""How fast the harm of an error may grow as a word gets rarer: at most by this power of its share."""

COARSE, FINE = 2, 3
"""Bits in which a table is run: the same error in every text does more harm than in proportion to its square."""

SAMPLED = 512
"""Rows that tell what share of a row's power is lost in each format."""

APART = 2048
"""Rows whose errors are taken one by one, those of most noise: [CLS] and the like have values ten times as large as
their others, and lose a hundred times as much in 6 bits as other rows do."""


WORDS = 4096
"""Tables with fewer rows, of positions and the like, get at least two bits a row: longer texts than those at hand look
them all up, and they take little."""


@dataclasses.dataclass(frozen=True)
class Embedding:
    """A table and what is looked up in it.

    Attributes:
        tensor: The table; its rows are columns of what its pass stores.
        used: How often each row is looked up by what noise is measured on, [rows].
        counted: The same of all the data there is; None without data.
        outputs: Of the model.
        is_ours: Whether the data is text of ours, which tells little of a user's: no row gets less than two bits.
    """

    tensor: Storable
    used: Counts
    counted: Counts | None
    outputs: Outputs
    is_ours: bool = False

    def options(self, formats: Sequence[Format], *, row_widths: bool) -> list[Option]:
        """The table in each format, and with rows in widths of their own."""
        tensor = self.tensor
        lookups = self.used if self.counted is None else self.counted
        kinds = np.digitize(lookups / max(1, lookups.sum()), KINDS)
        per_error, exponent = self._noise_per_error(kinds)
        power, shares = self._power(), self._shares()
        expected = shares * power * _harm(per_error, kinds, self.used, shares)
        rows = _sampled(shares)
        whole, all_noise = float(power[rows].sum()) or 1.0, float(expected.sum())
        options = tensor_error.options(tensor, rows, formats, lambda lost: lost / whole * all_noise)
        fine = options[formats.index(Format(FINE, tensor.block))].noise
        if row_widths and self.counted is not None and tensor.shape[0] % 8 == 0:
            for spread in row_use.spreads(expected, tensor.shape[0], *self._errors(expected)):
                options.append(Option(spread.bits, spread.noise, (f"@{mixed.print_widths(spread.widths)}",)))
        return [dataclasses.replace(option, noise=_bent(option.noise, fine, exponent)) for option in options]

    def _shares(self) -> row_use.Vector:
        """Of the lookups to be expected, [rows]: all alike where nothing is known."""
        if self.counted is None or not self.counted.any():
            return np.full(self.tensor.shape[1], 1 / self.tensor.shape[1])
        order = None
        if self.tensor.shape[1] >= WORDS:
            order = np.argsort(row_likeness.likeness(self.tensor.matrix(), self.counted), kind="stable")
        return row_use.shares(self.counted, row_use.ANYWHERE if self.is_ours else row_use.ELSEWHERE, order)

    def _power(self) -> row_use.Vector:
        """Sum of squares of each row, [rows]."""
        matrix = self.tensor.matrix()
        power = np.empty(matrix.shape[1])
        for rows in slices_of(len(power), len(matrix), mixed.AT_ONCE):
            part = np.asarray(matrix[:, rows], np.float32)
            power[rows] = np.einsum("kn,kn->n", part, part, dtype=np.float64)
        return power

    def _errors(self, expected: row_use.Vector) -> tuple[list[int], row_use.Vector]:
        """Widths, and the share of a row's power that is lost in each, [rows, widths]: its own for rows that count
        most, and that of some of the others for all of these."""
        order = np.argsort(-expected, kind="stable")
        apart, others = order[:APART], order[APART:] if len(order) > APART else order
        spread = others[np.linspace(0, len(others) - 1, min(len(others), SAMPLED)).astype(np.intp)]
        few = self.is_ours or self.tensor.shape[1] < WORDS
        kinds = [width for width in sorted(mixed.ORDER) if width > 1 or not few]
        lost = np.empty((len(expected), len(kinds)))
        for rows, each in ((spread, False), (apart, True)):
            table = np.ascontiguousarray(self.tensor.matrix()[:, rows].T, dtype=np.float32)
            power = np.square(table).sum(axis=1, dtype=np.float64)
            for at, width in enumerate(kinds):
                error = np.square(table - mixed.decode(*mixed.encode(table, width), width)).sum(axis=1)
                if each:
                    lost[rows, at] = error / np.maximum(power, 1e-30)
                else:
                    lost[:, at] = error.sum() / max(power.sum(), 1e-30)
        return kinds, lost

    def _noise_per_error(self, kinds: npt.NDArray[np.intp]) -> tuple[row_use.Vector, float]:
        """Noise over squared error per lookup, by the kind of the row, and how much faster than that error the noise
        grows (see `_bent`); 0 for kinds that are not looked up."""
        fine, coarse = Format(FINE, self.tensor.block), Format(COARSE, self.tensor.block)
        per_error, known, proportional = np.zeros(len(KINDS) + 1), 0.0, 0.0
        for kind in np.unique(kinds[self.used > 0]):
            used = np.where(kinds == kind, self.used, 0)
            changed, lost = self._stored(used, fine)
            noise = self._noise(changed)
            per_error[kind] = noise / (lost or 1.0)
            known += noise
            proportional += per_error[kind] * self._stored(used, coarse)[1]
        if not proportional > known > 0:
            return per_error, 0.0
        noise = self._noise(self._stored(self.used, coarse)[0])
        more = math.log(noise / proportional) if noise > 0 else 0.0
        return per_error, min(1.0, max(0.0, more / math.log(proportional / known)))

    def _stored(self, used: Counts, form: Format) -> tuple[Matrix, float]:
        """The table [K, N] with the rows that are used in a format, and their share of the mean error per lookup.

        The error is that of nearest rounding: what a solver gains is much the same in all formats.
        """
        rows = np.flatnonzero(used)
        left, _ = tensor_error.decoded(self.tensor, rows, form)
        _, lost = tensor_error.decoded(self.tensor, rows, form, nearest=True)
        matrix = np.array(self.tensor.matrix(), dtype=np.float32)
        matrix[:, rows] = left
        return matrix, float((lost * used[rows]).sum() / self.used.sum())

    def _noise(self, matrix: Matrix) -> float:
        return self.outputs.noise([{self.tensor.name: self.tensor.as_initializer(matrix)}])


def _sampled(shares: row_use.Vector) -> npt.NDArray[np.intp]:
    """Rows that stand for all: half of them the most frequent ones, half spread over the table."""
    half = SAMPLED // 2
    most = np.argsort(-shares, kind="stable")[:half]
    spread = np.linspace(0, len(shares) - 1, half).astype(np.intp)
    return np.unique(np.concatenate([most, spread]))


def _harm(
    per_error: row_use.Vector, kinds: npt.NDArray[np.intp], used: Counts, shares: row_use.Vector
) -> row_use.Vector:
    """Noise over squared error per lookup of each row, [rows]: a power of its expected share, fitted to that of kinds.

    Rare words tell more, so an error in them does more harm. Of all-MiniLM-L6-v2 on STS-B it goes from 0.04 for [CLS]
    and the like over 0.13, 0.31 and 0.45 to 1.3 for the third of the rows that is expected least: a power of -0.31 of
    the share, over five decades.

    Args:
        per_error: The same of each kind; 0 where that is not known.
        kinds: Of each row.
        used: Lookups of each row that it was measured on.
        shares: Of the lookups that are expected of each row.
    """
    known = np.flatnonzero(per_error)
    logarithm = np.log(np.maximum(shares, 1e-12))
    if not len(known):
        return np.zeros(len(shares))
    middles = np.array([np.average(logarithm[kinds == kind], weights=used[kinds == kind]) for kind in known])
    errors = np.log(per_error[known])
    apart = middles - middles.mean()
    slope = float(np.clip(apart @ errors / max(apart @ apart, 1e-9), -STEEPEST, 0.0))  # kinds of one share tell none
    level = np.mean(errors - slope * middles)
    harm: row_use.Vector = np.exp(level + slope * logarithm)
    return harm


def _bent(noise: float, known: float, exponent: float) -> float:
    """Noise that grows by a power of the error: proportional noise, exact at ``known``.

    >>> _bent(4.0, 1.0, 0.5), _bent(0.25, 1.0, 0.5), _bent(4.0, 1.0, 0.0)
    (8.0, 0.125, 4.0)
    """
    if known:
        return noise * math.pow(noise / known, exponent)
    return noise
