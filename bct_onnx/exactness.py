"""Whether what promises to be exact is: outputs may move as far as rounding moves them, and no further.

Most outputs stay within a fixed bound. One that does not is looked at again, so that what rounding does is not held
against a pass: in both models without ONNX Runtime's own optimizations, some of which round, and beside the noise of
the model itself, which is how far its outputs move when every weight, and what is fed, changes by one unit in its last
place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from bct_onnx.errors import TargetError, UsageError
from bct_onnx.graph import functions
from bct_onnx.graph.known import dtypes_of
from bct_onnx.graph.lengths import sizing_values
from bct_onnx.graph.names import entries
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.parity import compare_outputs
from bct_onnx.runtime.session import run_all, session

BOUND = 80.0
"""dB that an output of float32 keeps: 1e-4 of it, some thousand units in the last place."""

BOUND_16 = 66.0
"""dB that an output of a model in 16 bits keeps: half a unit of float16, 2^-11 of it."""

MARGIN = 10.0
"""dB that rounding may move an output further than the model's noise: orders of summation are many, samples few."""

NOISE = 6.0
"""dB: an output that keeps less under the noise of its model is noise, and nothing can be compared with it. A
normalization divided by its own sum, which is 0 but for rounding, is one."""

_SHAKEN = 2  # times that weights are changed
_SIZES = 8  # numbers at most, in a constant that says how large a value is

Sample = Sequence[Any]
"""The outputs of one run, in the order in which they are declared."""


@dataclasses.dataclass(frozen=True)
class Side:
    """One of two models that are compared: what gives a copy, its outputs on each sample, settings of sessions."""

    model: Callable[[], ir.Model]
    outputs: Sequence[Sample]
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)


def bound(model: ir.Model) -> float:
    """dB that outputs of ``model`` keep in what is exact, by the type it computes in."""
    values = (*model.graph.inputs, *model.graph.initializers.values())
    if ir.DataType.FLOAT16 in dtypes_of(values):
        return BOUND_16
    return BOUND


def moved(
    before: Side,
    after: Side,
    feeds: Sequence[Feeds],
    names: Sequence[str],
    least: float,
    seen: Callable[[Sequence[Sample]], Sequence[Sample]] = lambda samples: samples,
) -> dict[str, tuple[float, float]]:
    """SQNR and bound in dB, by name, of the outputs of ``after`` that moved further from ``before`` than rounding does.

    ``least`` is the `bound` of what both come from; ``seen`` gives the part of outputs that counts.
    """
    first = kept(seen(before.outputs), seen(after.outputs), names)
    far = _below(least, first)
    if not far:
        return {}
    plain = seen(_plain(before, feeds))
    ratios = kept(plain, seen(_plain(after, feeds)), names)
    if not _below(least, entries(ratios, far)):
        return {}
    noise = _noise(before, plain, feeds, names, seen)
    bounds = {name: min(least, noise[name] - MARGIN) for name in far}
    return {name: (ratios[name], bounds[name]) for name in far if ratios[name] < bounds[name]}


def kept(before: Sequence[Sample], after: Sequence[Sample], names: Sequence[str]) -> dict[str, float]:
    """SQNR of each output in dB; -inf where texts or shapes differ, or numbers are finite in one of the two only."""
    columns = zip(zip(*before, strict=True), zip(*after, strict=True), strict=True)
    return {name: _kept(*pair) for name, pair in zip(names, columns, strict=True)}


def _kept(before: Sequence[Any], after: Sequence[Any]) -> float:
    try:
        parity = compare_outputs([[array] for array in before], [[array] for array in after])
    except UsageError:
        return -math.inf
    if parity.finite and (parity.texts is None or parity.exact):
        return parity.sqnr_db
    return -math.inf


def noisy(
    side: Side,
    feeds: Sequence[Feeds],
    names: Sequence[str],
    seen: Callable[[Sequence[Sample]], Sequence[Sample]] = lambda samples: samples,
) -> dict[str, float]:
    """The outputs that are `NOISE` in a model itself, with the dB that they keep under what is but rounding."""
    return _below(NOISE, _noise(side, seen(_plain(side, feeds)), feeds, names, seen))


def _below(least: float, ratios: Mapping[str, float]) -> dict[str, float]:
    """Those outputs that keep fewer dB."""
    return {name: db for name, db in ratios.items() if db < least}


def _plain(side: Side, feeds: Sequence[Feeds]) -> Sequence[Sample]:
    """The outputs without ONNX Runtime's optimizations; the usual ones where it needs these to run the model."""
    try:
        return _outputs(side.model(), feeds, side.settings)
    except TargetError:
        return side.outputs


def _noise(
    side: Side,
    plain: Sequence[Sample],
    feeds: Sequence[Feeds],
    names: Sequence[str],
    seen: Callable[[Sequence[Sample]], Sequence[Sample]],
) -> dict[str, float]:
    """dB that each of the ``plain`` outputs keeps under what is but rounding."""
    ratios = [dict.fromkeys(names, math.inf)]
    for seed in range(_SHAKEN):
        with contextlib.suppress(TargetError):
            shaken_outputs = _outputs(
                shaken(side.model(), seed), [_shaken_feeds(sample, seed) for sample in feeds], side.settings
            )
            ratios.append(kept(plain, seen(shaken_outputs), names))
    return {name: min(ratio[name] for ratio in ratios) for name in names}


def _outputs(model: ir.Model, feeds: Sequence[Feeds], settings: Mapping[str, str]) -> Sequence[Sample]:
    return run_all(session(model, optimize="disabled", settings=settings), feeds)


def shaken(model: ir.Model, seed: int) -> ir.Model:
    """A copy of ``model`` whose float weights differ by up to one unit in the last place, each in its own direction.

    A few numbers of which a size depends stay: with a ``Resize`` by 1.9999999 no model runs.
    What is stored in 16 bits for the sake of its size, and computed with in 32, differs by a unit of the latter.
    """
    copy = functions.inlined(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=False)(copy)
    for graph in (copy.graph, *copy.graph.subgraphs()):
        sizing = sizing_values(graph)
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE):
                continue
            if value in sizing and tensor.size <= _SIZES:
                continue
            widened = tensor.dtype == ir.DataType.FLOAT16 and all(map(_widens, value.consumers()))
            dtype = ir.DataType.FLOAT if widened else tensor.dtype
            # A type of its own: a copy of a model shares the types of its values with the model.
            value.type, value.const_value = ir.TensorType(dtype), _shaken(tensor, dtype, seed)
    return copy


def _widens(node: ir.Node) -> bool:
    return node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT


def _shaken(tensor: ir.TensorProtocol, dtype: ir.DataType, seed: int) -> ir.TensorProtocol:
    def read() -> ir.TensorProtocol:
        values = tensor.numpy().astype(dtype.numpy())
        return ir.Tensor(_nudged(values, values != 0, seed), name=tensor.name)

    return ir.LazyTensor(read, dtype, ir.Shape(tensor.shape.numpy()), name=tensor.name)


def _shaken_feeds(feeds: Feeds, seed: int) -> Feeds:
    """The same sample with its fractions changed; whole numbers may be ids or masks, whatever their type."""
    return {
        name: _nudged(each, each != np.rint(each), seed) if _is_float(each) else each for name, each in feeds.items()
    }


def _is_float(array: np.ndarray[Any, Any]) -> bool:
    return array.dtype in (np.float32, np.float64, np.float16)


def _nudged(values: np.ndarray[Any, Any], usual: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
    """The ``usual`` ones of some values, up or down by one unit in the last place each."""
    toward = np.where(np.random.default_rng(seed).random(values.shape) < 0.5, -np.inf, np.inf).astype(values.dtype)
    return np.where(usual & np.isfinite(values), np.nextafter(values, toward), values)
