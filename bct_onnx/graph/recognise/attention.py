"""Attention spelled in matrix products: ``softmax(scale * q kᵀ + mask) v`` on ``[batch, heads, sequence, head size]``.

Starting at a ``Softmax``, the graph is read upwards through masks and scales to the product of queries and keys, and
from there to the values that are the queries and the keys proper. The scores are then run on arrays of two different
sizes and compared with the formula, which gives the scale: it may stand at the scores, at one side or split over both.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from bct_onnx.graph import tensors
from bct_onnx.graph.known import dtypes_of, rank_of, size_of
from bct_onnx.graph.neighbours import of_types, producer, readers_of
from bct_onnx.graph.recognise.heads import Heads, connected, keys_of, scaled, values_of
from bct_onnx.graph.recognise.region import Region, between, element, evaluate, is_constant, variables
from bct_onnx.graph.recognise.scores import MASKED, Mask, scale_of


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
    if after is None and scores is not None:
        return "its weights are not only multiplied with values"
    if after is None and _multiplied(softmax, 4):
        return "its weights are multiplied with values only after other nodes"
    if after is None:
        return None
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
    query, keys = map(_unscaled, _two(product))
    _, values = _two(after[-1])
    if rank_of(query) != 4 or rank_of(values) != 4:
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
    entering = dict.fromkeys([query, key.source, *(mask.value for mask in masks)])
    region = connected(tuple(itertools.filterfalse(is_constant, entering)), scores)
    if region is None:
        raise _Unlike("its scores depend on more than queries, keys and masks")
    nodes = (*region.nodes, softmax, *after)
    inner = Region((), after[-1].outputs[0], nodes[region.nodes.index(product) :])
    measured = _measured(inner, nodes)
    if len(set(dtypes_of((query, key.source, value.source, inner.output)))) > 1:
        raise _Unlike("its queries, keys, values and result are of different types")
    heads = {size_of(side.source, side.perm[1]) for side in (key, value)}
    if len(heads - {None}) > 1:
        raise _Unlike("its keys and values have different numbers of heads")
    if any(_widens(mask.value, query) for mask in masks):
        raise _Unlike("its mask has more texts or heads than its queries")
    scale = scale_of(region, query, key, masks)
    if scale is None:
        raise _Unlike("its scores are not scale * q k^T + mask with a positive scale")
    precision = None if scores.dtype == query.dtype else scores.dtype
    return Attention(query, key, value, masks, scale, precision, nodes, measured)


def _measured(inner: Region, nodes: tuple[ir.Node, ...]) -> tuple[ir.Node, ...]:
    """The ``Shape`` nodes that read scores or weights; `_Unlike` where others outside of the attention do."""
    measured: list[ir.Node] = []
    for escape in inner.escapes:
        users = escape.consumers()
        shapes = of_types(users, "Shape")
        if escape.is_graph_output() or not {*nodes, *shapes}.issuperset(users):
            raise _Unlike(f"the intermediate value '{escape.name}' is used elsewhere")
        measured += shapes
    return tuple(measured)


def _scores(value: ir.Value | None) -> tuple[ir.Node, tuple[Mask, ...]] | None:
    """Read upwards through masks, scales and casts to a product of two variables."""
    node = producer(value)
    if node is None or node.domain:
        return None
    if _is_product(node):
        return node, ()
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
    users = readers_of(weights)
    if len(users) == 1 and users[0].op_type == "MatMul":
        is_weighted = users[0].inputs[0] is weights and _is_product(users[0])
        if is_weighted:
            return (users[0],)
        return None
    between_them = _cleaned(weights, users)
    if len(users) == 1 and users[0].op_type == "Cast":
        between_them = (users[0],)
    if not between_them:
        return None
    after = _weighted_sum(between_them[-1].outputs[0])
    if after:
        return (*between_them, *after)
    return None


def _cleaned(weights: ir.Value, users: list[ir.Node]) -> tuple[ir.Node, ...]:
    """The nodes that put zeros for NaN, where nothing else reads the weights."""
    for user in users:
        region = between((weights,), user.outputs[0], element) if user.op_type == "Where" else None
        if region is None or region.escapes or not set(users) <= set(region.nodes):
            continue
        if np.array_equal(evaluate(region, [np.array([0.25, np.nan])]), [0.25, 0.0]):
            return region.nodes
    return ()


def _is_product(node: ir.Node) -> bool:
    """Whether a node multiplies two variables."""
    return node.op_type == "MatMul" and len(variables(node)) == 2


def _multiplied(node: ir.Node, depth: int) -> bool:
    """Whether a product of two variables follows within a few nodes."""
    users = node.successors()
    if any(map(_is_product, users)):
        return True
    return depth > 1 and any(_multiplied(user, depth - 1) for user in users)


def _two(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    first, second = node.inputs
    assert first is not None and second is not None
    return first, second


def _unscaled(value: ir.Value) -> ir.Value:
    node = value.producer()
    while node is not None and node.op_type in ("Mul", "Div") and not node.domain and (inner := scaled(node)):
        value, node = inner, inner.producer()
    return value
