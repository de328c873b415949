"""The noise of tables whose rows are looked up: by how often that is, whole and in ranges of rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bct_onnx.storable import Matrix, Storable
from bct_onnx.study.allocation import row_ranges as ranges
from bct_onnx.study.allocation import tensor_error
from bct_onnx.study.allocation.data import Counts
from bct_onnx.study.allocation.options import Format, Option
from bct_onnx.study.allocation.outputs import Outputs

FREQUENT = 0.005
"""Share of the lookups from which on rows are measured apart: [CLS] and [SEP] are in every text, always alike."""

COARSE, FINE = 2, 3
"""Bits in which a table is run: the same error in every text does more harm than in proportion to its square."""


@dataclasses.dataclass(frozen=True)
class Embedding:
    """A table and what is looked up in it.

    Attributes:
        tensor: The table; its rows are columns of what its pass stores.
        used: How often each row is looked up by what noise is measured on, [rows].
        counted: The same of all the data there is; None without data.
        outputs: Of the model.
    """

    tensor: Storable
    used: Counts
    counted: Counts | None
    outputs: Outputs

    def options(self, formats: Sequence[Format], *, row_ranges: bool) -> list[Option]:
        """The table in each format, and in ranges of several."""
        tensor, bounds = self.tensor, ranges.edges(self.tensor.shape[1])
        rows, weight = ranges.representatives(self.counted, bounds)
        lookups = self.used if self.counted is None else self.counted
        often = lookups >= FREQUENT * max(1, lookups.sum())
        per_error, exponent = self._noise_per_error(often)
        noise, bits = np.empty((len(formats), len(bounds) - 1)), np.empty((len(formats), len(bounds) - 1))
        options: list[Option] = []
        for at, form in enumerate(formats):
            _, lost = tensor_error.decoded(tensor, rows, form)
            scheme = tensor.scheme(form.bits, form.block)
            noise[at] = ranges.binned(rows, weight * per_error[often[rows].astype(int)] * lost, bounds)
            bits[at] = [tensor.stored_bits(scheme, int(size)) for size in np.diff(bounds)]
            options.append(Option((str(form),), tensor.stored_bits(scheme), float(noise[at].sum())))
        if row_ranges and self.counted is not None and tensor.shape[1] >= ranges.SPLIT:
            for cut in ranges.splits(bounds, noise, bits):
                if len(cut.ranges) > 1:
                    texts = tuple(f"{formats[at]}@{first}-{last}" for first, last, at in cut.ranges)
                    options.append(Option(texts, cut.bits, cut.noise))
        fine = options[formats.index(Format(FINE, tensor.block))].noise
        return [dataclasses.replace(option, noise=_bent(option.noise, fine, exponent)) for option in options]

    def _noise_per_error(self, often: npt.NDArray[np.bool_]) -> tuple[ranges.Vector, float]:
        """Noise over squared error per lookup, of rows that are rare and of those that are not, [2], and how much
        faster than that error the noise grows (see `_bent`)."""
        fine, coarse = Format(FINE, self.tensor.block), Format(COARSE, self.tensor.block)
        per_error, known, proportional = np.zeros(2), 0.0, 0.0
        for kind in (False, True):
            used = np.where(often == kind, self.used, 0)
            if used.any():
                changed, lost = self._stored(used, fine)
                noise = self._noise(changed)
                per_error[int(kind)] = noise / (lost or 1.0)
                known += noise
                proportional += per_error[int(kind)] * self._stored(used, coarse)[1]
        if not proportional > known > 0:
            return per_error, 0.0
        noise = self._noise(self._stored(self.used, coarse)[0])
        more = math.log(noise / proportional) if noise > 0 else 0.0
        return per_error, min(1.0, max(0.0, more / math.log(proportional / known)))

    def _stored(self, used: Counts, form: Format) -> tuple[Matrix, float]:
        """The table [K, N] with the rows that are used in a format, and their share of the mean error per lookup."""
        rows = np.flatnonzero(used)
        left, lost = tensor_error.decoded(self.tensor, rows, form)
        matrix = np.array(self.tensor.matrix(), dtype=np.float32)
        matrix[:, rows] = left
        return matrix, float((lost * used[rows]).sum() / self.used.sum())

    def _noise(self, matrix: Matrix) -> float:
        return self.outputs.noise([{self.tensor.name: self.tensor.as_initializer(matrix)}])


def _bent(noise: float, known: float, exponent: float) -> float:
    """Noise that grows by a power of the error: proportional noise, exact at ``known``.

    >>> _bent(4.0, 1.0, 0.5), _bent(0.25, 1.0, 0.5), _bent(4.0, 1.0, 0.0)
    (8.0, 0.125, 4.0)
    """
    return noise * (noise / known) ** exponent if known else noise
