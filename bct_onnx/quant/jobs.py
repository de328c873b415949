"""The work on one weight as a plain function, to be done here or in any process that sees the same files."""

from __future__ import annotations

import dataclasses
import itertools
import mmap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bct_onnx.errors import InputModelError
from bct_onnx.quant.blocks import Blocks, quantize_measured
from bct_onnx.quant.error import Error
from bct_onnx.quant.moments import Moments
from bct_onnx.quant.residual import squared_error
from bct_onnx.quant.scheme import Scheme
from bct_onnx.quant.solve import Solver, solve
from bct_onnx.quant.stored import Stored
from bct_onnx.quant.strips import oriented, slices

Array = npt.NDArray[Any]

PART_VALUES = 1 << 24
"""Values of a part of a large weight: a second's work, and small beside what else is in memory."""


@dataclass(frozen=True, eq=False)
class Job:
    """A weight to quantize.

    Args:
        values: The matrix, or where it lies.
        scheme: How to store it.
        rows: Those that are wanted, before transposing; all by default.
        transposed: Whether the weight [K, N] is the transpose of them.
        columns: Those of the weight that are wanted; all by default.
        importance: Of each row of the weight, [K]; see `bct_onnx.quant.quantize`.
        moments: XᵀX of its inputs, one or more to be added up; empty where nothing is known.
        solver: What to do with them; see `bct_onnx.quant.solve.solve`.
        damping: See there.
        packed: How 4-bit codes are wanted, along the rows before transposing; see `Blocks`.
    """

    values: Array | Stored
    scheme: Scheme
    rows: slice | None = None
    transposed: bool = False
    columns: slice | None = None
    importance: Array | None = None
    moments: tuple[Moments, ...] = ()
    solver: Solver = "nearest"
    damping: float = 0.0
    packed: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight, [K, N], all columns."""
        count, width = self.values.shape
        count = count if self.rows is None else len(range(*self.rows.indices(count)))
        if self.transposed:
            return (width, count)
        return (count, width)


@dataclass(frozen=True, eq=False)
class Quantized:
    """What became of it: the blocks, and their error."""

    blocks: Blocks
    error: Error


def run(job: Job) -> Quantized:
    """Do it. The result depends on nothing but the job.

    Raises:
        InputModelError: The weight cannot be read, or quantized.
    """
    found, axis = _run(job), 0 if job.transposed else 1
    if job.packed is None or job.shape[axis] % 2:  # of the whole weight: all parts alike
        return found
    return Quantized(found.blocks.pack(job.packed, axis), found.error)


def _run(job: Job) -> Quantized:
    values, forget = _opened(job.values)
    weight = oriented(values[job.rows or slice(None)], job.transposed)[:, job.columns or slice(None)]
    blocks, error = quantize_measured(weight, job.scheme, job.importance, after_read=forget)
    if not job.moments or job.solver == "nearest":
        return Quantized(blocks, error)
    products = job.moments[0].matrix()
    for others in job.moments[1:]:
        products += others.matrix()
    blocks = solve(weight, blocks, products, solver=job.solver, damping=job.damping)
    return Quantized(blocks, squared_error(weight, blocks, forget))


def split(job: Job) -> list[Job]:
    """Jobs for some columns each, where these depend on nothing but themselves and there are many.

    So large tensors do not keep other workers waiting. GPTQ and its like invert a matrix for all columns together;
    scales other than those of two levels are rounded as all of them together allow.
    """
    (k, n), scheme = job.shape, job.scheme
    alone = job.solver == "nearest" and scheme.scale == "two-level" and scheme.multiplier_bits
    width = scheme.block_shape[1]
    step = max(1, PART_VALUES // max(1, 2 * k * width)) * 2 * width  # even, so that parts of codes can be packed
    if not alone or step >= n:
        return [job]
    return [dataclasses.replace(job, columns=part) for part in slices(n, step)]


def joined(job: Job, results: Iterable[Quantized]) -> Quantized:
    """What `split` took apart, put together one by one: no more than one part is held beside the whole."""
    parts = iter(results)
    first = next(parts)
    if first.blocks.shape == job.shape:
        return first
    whole, done, error = _room(first.blocks, job.shape[1]), 0, Error()
    scales = []
    for part in itertools.chain([first], parts):
        blocks, width = part.blocks, part.blocks.scheme.block_shape[1]
        assert whole.multipliers is not None and blocks.multipliers is not None
        start = done * blocks.codes.shape[1] // blocks.shape[1]
        whole.codes[:, start : start + blocks.codes.shape[1]] = blocks.codes
        at = slice(done // width, done // width + blocks.multipliers.shape[1])
        whole.multipliers[:, at] = blocks.multipliers
        if whole.zero_points is not None and blocks.zero_points is not None:
            whole.zero_points[:, at] = blocks.zero_points
        scales.append(blocks.scale)
        done, error = done + blocks.shape[1], error + part.error
    return Quantized(dataclasses.replace(whole, scale=np.concatenate(scales)), error)


def _room(part: Blocks, n: int) -> Blocks:
    """Blocks for ``n`` columns, in the same order in memory."""
    k, columns = part.shape[0], -(-n // part.scheme.block_shape[1])
    height, width = part.codes.shape[0], n * part.codes.shape[1] // part.shape[1]
    by_column = part.codes.strides[0] < part.codes.strides[1]
    codes = np.empty((width, height) if by_column else (height, width), part.codes.dtype)
    codes = oriented(codes, by_column)
    assert part.multipliers is not None
    grid = (part.multipliers.shape[0], columns)
    points = None if part.zero_points is None else np.empty(grid, part.zero_points.dtype)
    return dataclasses.replace(
        part, shape=(k, n), codes=codes, multipliers=np.empty(grid, part.multipliers.dtype), zero_points=points
    )


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
