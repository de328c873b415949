"""The work on one weight as a plain function, to be done here or in any process that sees the same files."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bct_onnx.errors import InputModelError
from bct_onnx.quant.blocks import Blocks, quantize
from bct_onnx.quant.residual import squared_error
from bct_onnx.quant.scheme import Scheme
from bct_onnx.quant.solve import Solver, solve

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Stored:
    """An array that lies in a file: what is sent to a worker in its place.

    Args:
        file: An absolute path that workers see as well.
        offset: Its first byte there.
        dtype: Type of its values, in this machine's order of bytes.
        shape: Its shape.
    """

    file: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Job:
    """A weight to quantize.

    Args:
        values: The matrix, or where it lies.
        scheme: How to store it.
        rows: Those that are wanted, before transposing; all by default.
        transposed: Whether the weight [K, N] is the transpose of them.
        importance: Of each row of the weight, [K]; see `bct_onnx.quant.quantize`.
        products: XᵀX of its inputs, [K, K], one or more to be added up; empty where nothing is known.
        solver: What to do with them; see `bct_onnx.quant.solve.solve`.
        damping: See there.
    """

    values: Array | Stored
    scheme: Scheme
    rows: slice | None = None
    transposed: bool = False
    importance: Array | None = None
    products: tuple[Array, ...] = ()
    solver: Solver = "nearest"
    damping: float = 0.0


@dataclass(frozen=True, eq=False)
class Quantized:
    """What became of it: the blocks, and the sums of ``(w - ŵ)²`` and of ``w²``."""

    blocks: Blocks
    error: tuple[float, float]


def run(job: Job) -> Quantized:
    """Do it. The result depends on nothing but the job.

    Raises:
        InputModelError: The weight cannot be read, or quantized.
    """
    values, forget = _opened(job.values)
    weight = values if job.rows is None else values[job.rows]
    weight = weight.T if job.transposed else weight
    blocks = quantize(weight, job.scheme, job.importance, after_read=forget)
    if job.products and job.solver != "nearest":
        products = job.products[0] if len(job.products) == 1 else np.asarray(sum(job.products))
        blocks = solve(weight, blocks, products, solver=job.solver, damping=job.damping)
    return Quantized(blocks, squared_error(weight, blocks, forget))


def _opened(values: Array | Stored) -> tuple[Array, Callable[[], None] | None]:
    """The array, and what drops the pages of it that were read so far."""
    if not isinstance(values, Stored):
        return values, None
    count = int(np.prod(values.shape, dtype=np.int64))
    start = values.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    length = values.offset - start + count * values.dtype.itemsize
    try:
        with values.file.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ, offset=start)
    except (OSError, ValueError) as error:
        fix = "leave the input's files where they are until the rewrite is done"
        raise InputModelError("a weight could not be read", where=str(values.file), why=str(error), fix=fix) from error
    array = np.frombuffer(mapped, values.dtype, count, values.offset - start).reshape(values.shape)
    if not hasattr(mmap, "MADV_DONTNEED"):
        return array, None
    return array, lambda: mapped.madvise(mmap.MADV_DONTNEED)
