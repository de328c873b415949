"""How much worse a format makes a tensor, by a sample of its columns.

Columns of a weight never influence each other, and some dozens of them tell about all. The error counted is what
reaches the output of the product, ``tr(Eᵀ XᵀX E)`` for E = W - Ŵ and the inputs X that were measured, or ``sum E²``
where none were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from bct_onnx.storable import Matrix, Storable
from bct_onnx.study.allocation.options import Format, Option

SAMPLED = 192
"""Columns of a weight, or rows of a table, that tell about all of them."""


def sample(tensor: Storable, count: int = SAMPLED) -> npt.NDArray[np.intp]:
    """Columns [n] of a weight [K, N] spread over all of it, in whole blocks."""
    width = tensor.job.scheme.block_shape[1]
    groups = -(-tensor.shape[1] // width)
    chosen = np.linspace(0, groups - 1, min(groups, max(1, count // width))).astype(np.intp)
    columns = (chosen[:, None] * width + np.arange(width)).ravel()
    return columns[columns < tensor.shape[1]]


def decoded(
    tensor: Storable, columns: npt.NDArray[np.intp], form: Format, *, nearest: bool = False
) -> tuple[Matrix, npt.NDArray[np.float64]]:
    """Some columns as they come back from a format, [K, n], and the error of each, [n]."""
    matrix = np.ascontiguousarray(tensor.matrix()[:, columns], dtype=np.float32)
    left = tensor.decoded(matrix, tensor.scheme(form.bits, form.block), nearest=nearest)
    return left, _error(tensor, matrix - left)


def options(
    tensor: Storable, columns: npt.NDArray[np.intp], formats: Iterable[Format], noise: Callable[[float], float]
) -> list[Option]:
    """A tensor rounded to the nearest in each format, with the noise that comes of the error of some of its columns."""
    ways: list[Option] = []
    for form in formats:
        _, lost = decoded(tensor, columns, form, nearest=True)
        bits = tensor.stored_bits(tensor.scheme(form.bits, form.block))
        ways.append(Option(bits, noise(float(lost.sum())), (str(form),)))
    return ways


def _error(tensor: Storable, lost: Matrix) -> npt.NDArray[np.float64]:
    """What the differences of some columns [K, n] do to the output of the product, [n]."""
    known = tensor.statistics
    if known is not None and len(known.sum_squares) == len(lost):
        return known.output_power(lost)
    each: npt.NDArray[np.float64] = np.einsum("kn,kn->n", lost, lost, dtype=np.float64)
    return each
