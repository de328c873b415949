"""Attention spelled in matrix products: ``softmax(scale * q kᵀ + mask) v`` on ``[batch, heads, sequence, head size]``.

Starting at a ``Softmax``, the graph is read upwards through masks and scales to the product of queries and keys, and
from there to the values that are the queries and the keys proper. The scores are then run on arrays of two different
sizes and compared with the formula, which gives the scale: it may stand at the scores, at one side or split over both.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from bct_onnx.graph import tensors
from bct_onnx.graph.neighbours import producer
from bct_onnx.graph.recognise.heads import LARGEST, Heads, concrete, connected, keys_of, run, scaled, values_of
from bct_onnx.graph.recognise.region import Region, between, element, evaluate, is_constant, variables
from bct_onnx.graph.tensors import Array

MASKED = -1e30
"""Scores at or below this are as good as minus infinity: in float32, adding any score to it changes nothing."""


_Sizes = tuple[int, int, int, int, int]
"""Batch, heads, queries, keys and size of heads, where the graph does not say."""


@dataclasses.dataclass(frozen=True)
class Mask:
    """A value added to the scores, or (with ``fill``) a condition under which they are replaced.

    Attributes:
        value: Broadcastable to ``[B, H, Sq, Skv]``; boolean if there is a ``fill``.
        fill: What masked scores become; None for an additive mask.
        keep: The value of the condition where scores are kept.
    """

    value: ir.Value
    fill: float | None = None
    keep: bool = True

    def infinite(self) -> bool:
        """Whether -inf is among the constants that masked scores come from."""
        return self.fill == -math.inf if self.fill is not None else _reads_infinity(self.value)


@dataclasses.dataclass(frozen=True)
class Attention:
    """The parts of an attention.

    Attributes:
        query: ``[B, H, Sq, D]``.
        key: Leads to ``[B, H, Skv, D]``.
        value: Leads to ``[B, H, Skv, Dv]``.
        masks: From the innermost to the outermost.
        scale: Factor of the scores.
        precision: Type that the softmax runs in, where it is not that of the queries.
        nodes: What it replaces; the output of the last is ``[B, H, Sq, Dv]``.
        measured: ``Shape`` nodes outside of it that read scores or weights, all of them ``[B, H, Sq, Skv]``.
    """

    query: ir.Value
    key: Heads
    value: Heads
    masks: tuple[Mask, ...]
    scale: float
    precision: ir.DataType | None
    nodes: tuple[ir.Node, ...]
    measured: tuple[ir.Node, ...]


class _Unlike(Exception):
    """Why a softmax between two matrix products is not an attention that can be used."""


def attention(softmax: ir.Node) -> Attention | str | None:
    """The attention around a ``Softmax``; the reason as text if it nearly is one; None if it is another softmax."""
    scores, after = _scores(softmax.inputs[0]), _weighted_sum(softmax.outputs[0])
    if after is None:
        read = "not only multiplied with values" if scores else "multiplied with values only after other nodes"
        return f"its weights are {read}" if scores or _multiplied(softmax, 4) else None
    if scores is None:
        return "its scores are not a product of queries and keys with masks and scales"
    try:
        return _assemble(softmax, *scores, after)
    except _Unlike as reason:
        return str(reason)


def _widens(mask: ir.Value, query: ir.Value) -> bool:
    """Whether scores may get more texts or heads by a mask than queries have: ``Attention`` takes no such mask."""
    if mask.shape is None or query.shape is None:
        return False
    leading = [1, 1, 1, 1, *mask.shape][-4:-2]
    for size, most in zip(leading, query.shape[:2], strict=True):
        if isinstance(most, int) and size not in (1, most) and (isinstance(size, int) or most == 1):
            return True
    return False


def _assemble(softmax: ir.Node, product: ir.Node, masks: tuple[Mask, ...], after: tuple[ir.Node, ...]) -> Attention:
    query, keys = (_unscaled(value) for value in _two(product))
    _, values = _two(after[-1])
    if any(value.shape is None or value.shape.rank() != 4 for value in (query, values)):
        raise _Unlike("its tensors are not known to be batch x heads x sequence x head size")
    if softmax.attributes.get_int("axis", -1) not in (-1, 3):
        raise _Unlike("its softmax does not run over the keys")
    key, value = keys_of(keys, repeats=True), values_of(values, repeats=True)
    if key is not None and key.groups != value.groups:
        key, value = keys_of(keys, repeats=False), values_of(values, repeats=False)
    if key is None:
        raise _Unlike("its keys are not a transposition of a known value")
    scores = softmax.inputs[0]
    assert scores is not None
    entering = (query, key.source, *(mask.value for mask in masks))
    region = connected(tuple(dict.fromkeys(value for value in entering if not is_constant(value))), scores)
    if region is None:
        raise _Unlike("its scores depend on more than queries, keys and masks")
    nodes = (*region.nodes, softmax, *after)
    inner = Region((), after[-1].outputs[0], nodes[region.nodes.index(product) :])
    measured = _measured(inner, nodes)
    if len({tensor.dtype for tensor in (query, key.source, value.source, inner.output)}) > 1:
        raise _Unlike("its queries, keys, values and result are of different types")
    heads = (side.source.shape[side.perm[1]] for side in (key, value) if side.source.shape is not None)
    if len({size for size in heads if isinstance(size, int)}) > 1:
        raise _Unlike("its keys and values have different numbers of heads")
    if any(_widens(mask.value, query) for mask in masks):
        raise _Unlike("its mask has more texts or heads than its queries")
    scale = _scale(region, query, key, masks)
    precision = scores.dtype if scores.dtype != query.dtype else None
    return Attention(query, key, value, masks, scale, precision, nodes, measured)


def _measured(inner: Region, nodes: tuple[ir.Node, ...]) -> tuple[ir.Node, ...]:
    """The ``Shape`` nodes that read scores or weights; `_Unlike` where others outside of the attention do."""
    measured: list[ir.Node] = []
    for escape in inner.escapes:
        outside = [user for user in escape.consumers() if user not in nodes]
        measured += [user for user in escape.consumers() if user.op_type == "Shape"]
        if escape.is_graph_output() or {user.op_type for user in outside} - {"Shape"}:
            raise _Unlike(f"the intermediate value '{escape.name}' is used elsewhere")
    return tuple(measured)


def _scores(value: ir.Value | None) -> tuple[ir.Node, tuple[Mask, ...]] | None:
    """Read upwards through masks, scales and casts to a product of two variables."""
    node = producer(value)
    if node is None or node.domain:
        return None
    if node.op_type == "MatMul":
        return (node, ()) if len(variables(node)) == 2 else None
    for above, outer in _steps(node):
        if scores := _scores(above):
            product, inner = scores
            return product, (*inner, *outer)
    return None


def _steps(node: ir.Node) -> Iterator[tuple[ir.Value | None, tuple[Mask, ...]]]:
    """Which inputs may hold scores, and the mask that the node then applies to them."""
    if node.op_type == "Cast":
        yield node.inputs[0], ()
    if node.op_type in ("Mul", "Div"):
        yield scaled(node), ()
    if node.op_type == "Add":
        first, second = _two(node)
        yield first, (Mask(second),)
        yield second, (Mask(first),)
    if node.op_type == "Where" and node.inputs[0] is not None:
        condition, kept, masked = node.inputs
        for keep, scores, other in ((True, kept, masked), (False, masked, kept)):
            fill = tensors.small_constant(other, 1)
            if condition is not None and fill is not None and fill.item() <= MASKED:
                yield scores, (Mask(condition, fill.item(), keep),)


def _weighted_sum(weights: ir.Value) -> tuple[ir.Node, ...] | None:
    """The product of weights and values, with what stands in between: a cast, or zeros for the NaN of masked rows."""
    if weights.is_graph_output():
        return None
    users = [user for user, _ in weights.uses()]
    if [user.op_type for user in users] == ["MatMul"]:
        return (users[0],) if users[0].inputs[0] is weights and len(variables(users[0])) == 2 else None
    if [user.op_type for user in users] == ["Cast"]:
        after = _weighted_sum(users[0].outputs[0])
        return (users[0], *after) if after else None
    for user in users:
        region = between((weights,), user.outputs[0], element) if user.op_type == "Where" else None
        if region and np.array_equal(evaluate(region, [np.array([0.25, np.nan])]), [0.25, 0.0]) and not region.escapes:
            after = _weighted_sum(user.outputs[0])
            return (*region.nodes, *after) if after and set(users) <= set(region.nodes) else None
    return None


def _multiplied(node: ir.Node, depth: int) -> bool:
    """Whether a product of two variables follows within a few nodes."""
    users = node.successors()
    if any(user.op_type == "MatMul" and len(variables(user)) == 2 for user in users):
        return True
    return depth > 1 and any(_multiplied(user, depth - 1) for user in users)


def _reads_infinity(value: ir.Value, limit: int = 32) -> bool:
    queue, seen = [value], set[ir.Value]()
    while queue and len(seen) < limit:
        above = queue.pop(0)
        seen.add(above)
        constant = tensors.small_constant(above, 1)
        if constant is not None and constant.item() == -math.inf:
            return True
        node = above.producer()
        operands = () if node is None else node.inputs
        queue.extend(operand for operand in operands if operand is not None and operand not in seen)
    return False


def _two(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    first, second = node.inputs
    assert first is not None and second is not None
    return first, second


def _unscaled(value: ir.Value) -> ir.Value:
    node = value.producer()
    while node is not None and node.op_type in ("Mul", "Div") and not node.domain and (inner := scaled(node)):
        value, node = inner, inner.producer()
    return value


def _scale(region: Region, query: ir.Value, key: Heads, masks: tuple[Mask, ...]) -> float:
    """The factor of the product in the scores, the same at two sizes, also of heads where those are not known (a factor
    that is computed from the size of heads is none then); as many queries as keys if nothing else fits.

    Raises:
        _Unlike: The scores are not ``scale * q kᵀ`` plus the masks.
    """
    for sizes in (((2, 4, 5, 7, 6), (3, 4, 11, 13, 8)), ((2, 4, 5, 5, 6), (3, 4, 11, 11, 8))):
        first, second = (_fitted(region, query, key, masks, trial) for trial in sizes)
        if first is not None and second is not None and abs(first - second) <= 1e-9 * first:
            return first  # positive: ``Attention`` is defined by its square root
    raise _Unlike("its scores are not scale * q k^T + mask with a positive scale")


def _fitted(region: Region, query: ir.Value, key: Heads, masks: tuple[Mask, ...], sizes: _Sizes) -> float | None:
    """Run the scores on two queries, of which the second is twice the first, and read the scale off the difference."""
    feeds = _feeds(region, query, key, masks, sizes)
    doubled = feeds | {query: 2 * feeds[query]}
    product, doubled_product = (_product(arrays[query], key, arrays[key.source]) for arrays in (feeds, doubled))
    once, twice = (run(region, [arrays[value] for value in region.inputs]) for arrays in (feeds, doubled))
    if once is None or twice is None or product is None or doubled_product is None or once.shape != product.shape:
        return None
    seen = once > MASKED / 1e10
    step = (doubled_product - product)[seen]
    if not step.any():
        return None
    scale = float(((twice[seen] - once[seen]) * step).sum() / (step**2).sum())
    expected = scale * product
    for mask in masks:
        data = feeds[mask.value]
        expected = expected + data if mask.fill is None else np.where(data == mask.keep, expected, mask.fill)
    return scale if np.allclose(once, expected, rtol=1e-6, atol=1e-6) else None


def _product(query: Array, key: Heads, source: Array) -> Array | None:
    """``q kᵀ``; None if these sizes do not go together."""
    keys = np.repeat(source.transpose(key.perm), key.groups, axis=1)
    fits = query.shape[0] == keys.shape[0] and keys.shape[1] in (1, query.shape[1]) and query.shape[3] == keys.shape[3]
    return query @ keys.swapaxes(-1, -2) if fits else None


def _feeds(
    region: Region, query: ir.Value, key: Heads, masks: tuple[Mask, ...], sizes: _Sizes
) -> dict[ir.Value, Array]:
    """Random arrays for what enters; the sizes that a mask fixes hold for queries and keys as well."""
    random, named = np.random.default_rng(0), dict[str, int]()
    batch, heads, queries, keys, width = sizes
    for mask in masks:
        fixed_queries, fixed_keys = [1, 1, *(mask.value.shape or ())][-2:]
        if isinstance(fixed_queries, int) and fixed_queries > 1:
            queries = fixed_queries
        if isinstance(fixed_keys, int) and fixed_keys > 1:
            keys = fixed_keys
    if queries * keys > LARGEST:
        queries, keys = sizes[2:4]  # what memory would not hold is tried at another size
    q = random.normal(size=concrete(query, (batch, heads, queries, width), named))
    arranged = (q.shape[0], q.shape[1] // key.groups, keys, q.shape[3])
    source = random.normal(size=concrete(key.source, tuple(arranged[key.perm.index(axis)] for axis in range(4)), named))
    feeds: dict[ir.Value, Array] = {key.source: source, query: q}
    full = (q.shape[0], q.shape[1], q.shape[2], source.shape[key.perm[2]])
    for mask in masks:
        shape = concrete(mask.value, full, named)
        data = random.normal(size=shape) if mask.fill is None else random.random(shape) < 0.7
        feeds.setdefault(mask.value, tensors.array(mask.value) if is_constant(mask.value) else data)
    for measured in region.inputs:
        feeds.setdefault(measured, np.zeros(concrete(measured, sizes[:4], named)))
    return feeds
