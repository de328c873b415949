"""Size and quality of every format on given weights, side by side: what to look at before choosing a scheme.

`python -m bct_onnx.quant.table [WEIGHTS.npz]` prints it for the matrices [K, N] of a file, or for random weights.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bct_onnx.quant.blocks import quantize
from bct_onnx.quant.error import Error
from bct_onnx.quant.scheme import Scheme

Matrix = npt.NDArray[Any]

SCHEMES = (
    Scheme(8, 32),
    Scheme(8, 32, reduce_range=False),
    Scheme(4, 32, scale="float16", search="max"),
    Scheme(4, 32, scale="float16"),
    Scheme(4, 32),
    Scheme(4, 32, signed_scales=True),
    Scheme(4, 64),
    Scheme(4, 64, signed_scales=True),
    Scheme(4, (64, 64), scale="shift", search="max"),
    Scheme(4, (64, 64), scale="shift"),
    Scheme(3, 32),
    Scheme(3, 32, signed_scales=True),
    Scheme(2, 32),
    Scheme(2, 32, signed_scales=True),
)


@dataclass(frozen=True)
class Row:
    """One format on a set of weights: stored bits per weight, and SQNR in dB over all values together."""

    scheme: Scheme
    bits_per_weight: float
    sqnr_db: float

    def __str__(self) -> str:
        return f"{self.scheme!s:<32}{self.bits_per_weight:7.3f}{self.sqnr_db:8.2f}"


def rows(weights: Sequence[Matrix], schemes: Iterable[Scheme] = SCHEMES) -> list[Row]:
    """Quantize all weights, each [K, N], with each scheme.

    >>> for row in rows([gaussian(256, 64)], [Scheme(4, 32, scale="float16", search="max"), Scheme(4, 32)]):
    ...     print(row)
    int4 b32 float16 max              4.500   20.66
    int4 b32 two-level                4.188   20.95
    """
    return [_row(weights, scheme) for scheme in schemes]


def gaussian(k: int = 1024, n: int = 256, *, seed: int = 0) -> Matrix:
    """Normal random weights, float32 [k, n]."""
    return np.random.default_rng(seed).standard_normal((k, n), dtype=np.float32)


def student_t(k: int = 1024, n: int = 256, *, freedom: float = 5, seed: int = 0) -> Matrix:
    """Random weights with the heavier tails of trained ones, float32 [k, n]."""
    return np.random.default_rng(seed).standard_t(freedom, (k, n)).astype(np.float32)


def main(arguments: list[str]) -> None:
    """Print the table for the matrices of a `.npz` file, or for random weights without one."""
    samples = {"normal weights": [gaussian()], "Student-t weights": [student_t()]}
    if arguments:
        with np.load(arguments[0]) as file:
            samples = {arguments[0]: [file[name] for name in file.files if file[name].ndim == 2]}
    for title, weights in samples.items():
        print(f"{title:<32}{'bits':>7}{'dB':>8}")
        print(*rows(weights), sep="\n")


def _row(weights: Sequence[Matrix], scheme: Scheme) -> Row:
    bits = count = 0
    error = Error()
    for weight in weights:
        blocks = quantize(weight, scheme)
        bits += 8 * blocks.nbytes
        count += weight.size
        error += Error.of(weight, blocks.dequantize())
    return Row(scheme, bits / count, error.sqnr_db)


if __name__ == "__main__":
    main(sys.argv[1:])
