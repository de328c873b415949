"""Functions of whole rows: layer normalization, root-mean-square normalization, softmax.

    LayerNormalization   y = scale * (x - mean(x)) / sqrt(var(x) + epsilon) + bias
    RMSNormalization     y = scale * x / sqrt(mean(x²) + epsilon)
    Softmax              y = exp(x) / sum(exp(x))

Scale, bias and epsilon are read off the behaviour: a row of zeros gives the bias; the outputs of a tiny and of a huge
row give epsilon, and with it the scale. The formula with these is then compared with the region on other rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.known import are_ones
from bct_onnx.graph.neighbours import of_types, provided
from bct_onnx.graph.recognise.region import ELEMENTWISE, Region, around, evaluate, is_constant
from bct_onnx.graph.tensors import FLOATS, Array

_REDUCTIONS = frozenset(("ReduceMean", "ReduceSum", "ReduceMax"))
_REDUCED = {"LayerNormalization": 2, "RMSNormalization": 1}
_ROOTS = frozenset(("Sqrt", "Pow", "Reciprocal"))
_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Norm:
    """A normalization of rows that a region is, or nearly is.

    Attributes:
        kind: ``LayerNormalization`` or ``RMSNormalization``.
        region: The nodes.
        epsilon: What is added to the variance or to the mean square.
        scale: ``[D]`` float64.
        bias: ``[D]`` float64; zeros for ``RMSNormalization``.
        deviation: Largest difference from the formula, relative to ``1 + |y|``.
        trouble: Why it cannot be used although it is near; empty if it can.
    """

    kind: str
    region: Region
    epsilon: float
    scale: Array
    bias: Array
    deviation: float
    trouble: str = ""

    @property
    def exact(self) -> bool:
        """Whether the region is the formula."""
        return self.deviation <= _TOLERANCE

    @property
    def refusal(self) -> str:
        """Why the region stays as it is, in words."""
        if self.exact or self.deviation == math.inf:
            return f"looks like {self.kind}, but {self.trouble or 'fits no epsilon, scale and bias'}"
        return f"nearest function is {self.kind}, which differs by up to {self.deviation:.2g}"


@dataclasses.dataclass(frozen=True)
class Softmax:
    """A region that is, or nearly is, a softmax.

    Attributes:
        kind: ``Softmax`` or ``LogSoftmax``.
        region: The nodes.
        axis: The axis that sums to one, counted from the end.
        deviation: Largest difference from the formula.
    """

    kind: str
    region: Region
    axis: int
    deviation: float

    @property
    def exact(self) -> bool:
        """Whether the region is the formula."""
        return self.deviation <= _TOLERANCE


def norm(anchor: ir.Node, kind: str) -> Norm | None:
    """The largest region around a ``ReduceMean`` that normalizes the last axis, else the one that comes nearest.

    Args:
        anchor: The ``ReduceMean``.
        kind: ``LayerNormalization`` or ``RMSNormalization``.

    Returns:
        None if nothing around the anchor has the form ``x * f(rows of x)``, with one reduction for
        ``RMSNormalization`` and with two for ``LayerNormalization``.
    """
    nearest: Norm | None = None
    for region in reversed(list(around(anchor, _row_operator))):
        reductions = of_types(region.nodes, *_REDUCTIONS)
        if not region.gated or len(reductions) != _REDUCED[kind] or not _ROOTS & set(region.spelling):
            continue
        fitted = _fit(region, kind)
        if fitted.exact and not fitted.trouble:
            return fitted
        if nearest is None or (not fitted.exact, fitted.deviation) < (not nearest.exact, nearest.deviation):
            nearest = fitted
    return nearest


def softmax(anchor: ir.Node) -> Softmax | None:
    """The largest region around an ``Exp`` that is a softmax or its logarithm, else the one that comes nearest.

    A region that changes types or that others look into counts only if there is no other. None if nothing around the
    anchor sums up exponentials.
    """
    candidates = list(map(_softmax, around(anchor, _row_operator)))
    return max(filter(None, candidates), key=_fitness, default=None)


def _fitness(candidate: Softmax) -> tuple[bool, bool, bool, float, int]:
    region = candidate.region
    nearness = -round(candidate.deviation, 6)
    return candidate.exact, not region.escapes, not region.casts, nearness, len(region.nodes)


def _softmax(region: Region) -> Softmax | None:
    sums = of_types(region.nodes, "ReduceSum")
    axes = set(_reduced(sums))
    rank = _rank(region)
    if not region.same_type() or len(axes) != 1 or rank is None:
        return None
    axis = axes.pop()
    nearest = _nearest_softmax(region, rank, axis if axis < 0 else axis - rank)
    if nearest.deviation < math.inf:
        return nearest
    return None


def parameter(edit: Edit, region: Region, name: str, values: Array) -> ir.Value:
    """A ``[D]`` constant with these values in the type of the region, which may read it already."""
    dtype = region.output.dtype or region.inputs[0].dtype
    assert dtype is not None, "a norm of unknown type is never exact"
    for value in region.constants:
        if value.dtype == dtype and value.shape is not None and list(value.shape) == [values.size]:
            known = tensors.array(value)
            if np.allclose(known.astype(np.float64), values, rtol=1e-7, atol=1e-12 * np.abs(values).max()):
                return value
    return edit.constant(name, values.astype(dtype.numpy()))


def _row_operator(node: ir.Node) -> bool:
    if node.domain or node.op_type not in ELEMENTWISE | _REDUCTIONS:
        return False
    if node.op_type in _REDUCTIONS:
        return bool(node.attributes.get_int("keepdims", 1)) and len(_axes(node)) == 1
    constants = filter(is_constant, provided(node.inputs))
    return all(value.shape is not None and are_ones(value.shape[:-1]) for value in constants)


def _axes(node: ir.Node) -> tuple[int, ...]:
    """The axes of a reduction, its second input; none if they are not constant, and for other operators."""
    if node.op_type not in _REDUCTIONS or len(node.inputs) < 2:
        return ()
    axes = tensors.small_constant(node.inputs[1])
    if axes is None:
        return ()
    return tuple(map(int, axes.reshape(-1)))


def _reduced(nodes: Iterable[ir.Node]) -> Iterator[int]:
    """The axes of all reductions among some nodes."""
    for node in nodes:
        yield from _axes(node)


def _rank(region: Region) -> int | None:
    """The rank of the input; where it is unknown, two more than the axes need, unless an axis counts from the front or
    none is known."""
    known = region.inputs[0].shape
    if known is not None:
        return known.rank()
    if any(value.shape is None or value.shape.rank() > 1 for value in region.constants if value.dtype in FLOATS):
        return None  # the result may have more dimensions than the input
    if region.output.shape is not None:
        return region.output.shape.rank()
    axes = list(_reduced(region.nodes))
    if not axes or any(axis >= 0 for axis in axes):
        return None
    return 2 - min(axes)


def _fit(region: Region, kind: str) -> Norm:
    width, rank = _width(region), _rank(region)
    trouble = ""
    if width is None:
        trouble = "the number of columns is unknown, or 1"
    elif rank is None or rank < 2:
        trouble = "the number of dimensions is unknown or less than two"
    elif any(axis not in (-1, rank - 1) for axis in _reduced(region.nodes)):
        trouble = "it reduces another axis than the last"
    else:
        rows = _rows(width)
        samples = rows.reshape([1] * (rank - 2) + list(rows.shape))
        result = evaluate(region, [samples])
        if result.shape == samples.shape and np.isfinite(result).all():
            return _formula(kind, region, rows, result.reshape(rows.shape))
        trouble = "its results are not finite, or not of the shape of its input"
    return Norm(kind, region, 0.0, np.zeros(0), np.zeros(0), math.inf, trouble)


def _formula(kind: str, region: Region, rows: Array, result: Array) -> Norm:
    """Read bias, epsilon and scale off rows of zeros, of tiny and of huge values, and compare on all rows.

    With c = x or x - mean(x) and v = mean(c²): the ratio r of y/c in the tiny row to that in the huge row obeys
    r² = (v_huge + ε) / (v_tiny + ε).
    """
    centred = rows - rows.mean(axis=1, keepdims=True) if kind == "LayerNormalization" else rows
    variance = (centred**2).mean(axis=1, keepdims=True)
    bias = result[0]
    with np.errstate(all="ignore"):
        slope = (result - bias) / centred
        column = int(np.abs(result[1] - bias).argmax())
        inverse = (slope[2, column] / slope[1, column]) ** 2
        epsilon = float((inverse * variance[2, 0] - variance[1, 0]) / (1 - inverse))
        scale = slope[2] * np.sqrt(variance[2] + epsilon)
        expected = scale * centred / np.sqrt(variance + epsilon) + bias
        deviation = float((np.abs(result - expected) / (1 + np.abs(result))).max())
    biased = kind == "RMSNormalization" and np.abs(bias).max() > 0
    if biased or not np.isfinite(deviation) or epsilon < -1e-15:
        deviation = math.inf
    return Norm(kind, region, max(epsilon, 0.0), scale, bias, deviation, _trouble(region, scale, bias))


def _trouble(region: Region, *parameters: Array) -> str:
    """Why the region cannot become one operator: somebody reads its inside, or a type cannot hold the parameters."""
    if region.escapes:
        return f"the intermediate value '{region.escapes[0].name}' is used elsewhere"
    if not region.same_type():
        return "its output has another type than its input"
    dtype = region.output.dtype or region.inputs[0].dtype
    if dtype is None:
        return "its type is unknown"
    for values in parameters:
        with np.errstate(over="ignore"):
            rounded = values.astype(dtype.numpy()).astype(np.float64)
        if not (np.abs(rounded - values) <= 1e-7 * np.abs(values) + 1e-12 * np.abs(values).max()).all():
            return f"its scale or bias cannot be written as {dtype.name.lower()}"
    return ""


def _width(region: Region) -> int | None:
    """The number of columns of the input. What the constants have says nothing: one column is widened to theirs."""
    shape = region.inputs[0].shape
    width = shape[-1] if shape is not None and shape.rank() > 0 else None
    if isinstance(width, int) and width > 1:
        return width
    return None


def _rows(width: int) -> Array:
    """Rows ``[6, width]``: zeros, tiny (1e-6), huge (1e4), then three ordinary ones of different size and offset.

    No element of the tiny and of the huge row lies near 0 or near the mean, so that slopes can be read off them.
    """
    random = np.random.default_rng(0)
    signs = np.where(np.arange(width) % 2, -1.0, 1.0)
    far = signs * random.uniform(1, 2, (2, width))
    ordinary = random.normal(size=(3, width)) * [[1e-3], [1.0], [30.0]] + [[0.0], [0.5], [-3.0]]
    return np.concatenate([np.zeros((1, width)), far * [[1e-6], [1e4]], ordinary])


def _nearest_softmax(region: Region, rank: int, axis: int) -> Softmax:
    """Compare with both formulas, on ordinary rows and on rows masked with -inf in part and in whole."""
    random = np.random.default_rng(0)
    x = np.moveaxis(random.normal(size=(*range(2, rank + 1), 6)) * 3, -1, axis)
    rows = np.moveaxis(x, axis, -1).reshape(-1, 6)
    rows[0, :3], rows[-1] = -np.inf, -np.inf
    x = np.moveaxis(rows.reshape(np.moveaxis(x, axis, -1).shape), -1, axis)
    result = evaluate(region, [x])
    with np.errstate(all="ignore"):
        exponentials = np.exp(x - x.max(axis=axis, keepdims=True))
        expected = exponentials / exponentials.sum(axis=axis, keepdims=True)
        candidates = (
            Softmax("Softmax", region, axis, _distance(result, expected)),
            Softmax("LogSoftmax", region, axis, _distance(result, np.log(expected))),
        )
    return min(candidates, key=lambda candidate: candidate.deviation)


def _distance(result: Array, expected: Array) -> float:
    """Largest difference where both are finite, but at least 1 where infinities or NaN differ."""
    if result.shape != expected.shape:
        return math.inf
    finite = np.isfinite(expected) & np.isfinite(result)
    alike = np.array_equal(result[~finite], expected[~finite], equal_nan=True)
    return max(float(np.abs(result[finite] - expected[finite]).max(initial=0.0)), 0.0 if alike else 1.0)
