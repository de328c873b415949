"""XᵀX of the inputs of a weight, as the solvers use it: damped, and factored in float32."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]

_PANEL = 128  # columns of a triangular factor between two products of matrices


def damped(hessian: npt.NDArray[Any], damping: float) -> Matrix | None:
    """The Hessian over its mean diagonal, `damping` added to the diagonal, float32; None if it is not finite or all
    zero."""
    diagonal = np.diag(hessian).astype(np.float64)
    mean = float(diagonal.mean()) if np.isfinite(diagonal).all() else 0.0
    if mean <= 0:
        return None
    full: Matrix = (hessian / hessian.dtype.type(mean)).astype(np.float32, copy=False)
    if not np.isfinite(full).all():
        return None
    full[np.diag_indices_from(full)] += np.float32(damping)
    return full


@dataclasses.dataclass(frozen=True)
class Factor:
    """``H = R Rᵀ`` with R upper triangular, the rows of H in the order of processing.

    Attributes:
        shares: ``R[j, k] / R[k, k]``: what of the error of row j is left to row k, [K, K].
        weights: ``R[k, k]``, [K, 1].
    """

    shares: Matrix
    weights: Matrix

    @classmethod
    def of(cls, hessian: Matrix, order: Rows) -> Factor:
        """With rows and columns of ``hessian`` taken in some order, by Cholesky's factor of them in reverse."""
        last_first = order[::-1]
        mixed = hessian[np.ix_(last_first, last_first)]
        try:
            lower = _cholesky(mixed.copy())
        except np.linalg.LinAlgError:  # little damping, and inputs that are nearly the same
            lower = np.linalg.cholesky(mixed.astype(np.float64)).astype(np.float32)
        del mixed
        shares = lower[::-1, ::-1]
        weights = np.diag(shares).copy()
        return cls(shares / weights, weights[:, None])

    def __getitem__(self, rows: slice) -> Factor:
        """That of some rows alone."""
        return Factor(np.ascontiguousarray(self.shares[rows, rows]), self.weights[rows])


def _cholesky(matrix: Matrix) -> Matrix:
    """The lower triangular factor, in place of the matrix; what is above the diagonal of blocks means nothing.

    Products of matrices do nearly all of the work, several times as fast as ``np.linalg.cholesky`` on one thread.

    Raises:
        np.linalg.LinAlgError: The matrix is not positive definite, as far as its precision tells.
    """
    for start in range(0, len(matrix), _PANEL):
        stop = start + _PANEL
        panel = matrix[start:, start:stop]
        if start:
            panel -= matrix[start:, :start] @ matrix[start:stop, :start].T
        corner = np.linalg.cholesky(panel[:_PANEL].astype(np.float64))
        panel[:_PANEL] = corner
        panel[_PANEL:] = panel[_PANEL:] @ np.linalg.inv(corner).T.astype(np.float32)
    return matrix
