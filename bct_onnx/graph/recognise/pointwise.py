"""Activation functions: which one, if any, a pointwise region is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from bct_onnx.graph.recognise.region import Region, around, element, evaluate
from bct_onnx.graph.tensors import Array

SAMPLES: Array = np.concatenate([np.linspace(-10, 10, 161), [-30.0, -1e-3, 1e-3, 30.0]])
"""Where functions are compared; the two GELUs differ by up to 5e-4 here."""

TOLERANCE = {ir.DataType.FLOAT16: 1e-4, ir.DataType.BFLOAT16: 2e-4}
"""Largest deviation that the rounding of the constants explains; 1e-5 for wider types."""

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": lambda x: np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2)))),
    "gelu-tanh": _gelu_tanh,
    "quick-gelu": lambda x: np.asarray(x * _sigmoid(1.702 * x)),
    "silu": lambda x: np.asarray(x * _sigmoid(x)),
}
"""The functions of the form ``x * f(x)`` that transformers use, by name."""


@dataclasses.dataclass(frozen=True)
class Pointwise:
    """The function that a region comes nearest to.

    Attributes:
        function: A name in `FUNCTIONS`.
        deviation: Largest difference from it on `SAMPLES`.
        tolerance: What may be explained by rounded constants.
        region: The nodes.
    """

    function: str
    deviation: float
    tolerance: float
    region: Region

    @property
    def exact(self) -> bool:
        """Whether the region is the function."""
        return self.deviation <= self.tolerance


def pointwise(anchor: ir.Node) -> Pointwise | None:
    """The smallest region around ``anchor`` that is a known function, else the one that comes nearest.

    None if nothing around the anchor has the form ``x * f(x)``.

    >>> model = ir.from_onnx_text('''<ir_version: 10, opset_import: ["": 23]> g (float[n] x) => (float[n] y)
    ...     <float a = {1.702}> { s = Mul (a, x)  t = Sigmoid (s)  y = Mul (t, x) }''')
    >>> pointwise(model.graph[1]).function
    'quick-gelu'
    """
    best: Pointwise | None = None
    for region in around(anchor, element):
        if not region.gated or not region.same_type():
            continue
        nearest = _nearest(region)
        if nearest.exact:
            return nearest
        if best is None or nearest.deviation < best.deviation:
            best = nearest
    return best


def _nearest(region: Region) -> Pointwise:
    result = evaluate(region, [SAMPLES])
    deviations = {name: _deviation(result, function(SAMPLES)) for name, function in FUNCTIONS.items()}
    name = min(deviations, key=deviations.__getitem__)
    tolerance = max((TOLERANCE.get(value.dtype, 1e-5) for value in region.constants if value.dtype), default=1e-5)
    return Pointwise(name, deviations[name], tolerance, region)


def _deviation(result: Array, expected: Array) -> float:
    if result.shape != expected.shape or not np.isfinite(result).all():
        return math.inf
    return float(np.abs(result - expected).max())
