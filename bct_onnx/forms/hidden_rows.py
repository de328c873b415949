"""Which queries of a standard ``Attention`` see no key at all: those that its mask hides every key from by -inf.

Their softmax divides nothing by nothing. ONNX Runtime 1.23 gives NaN there, 1.24 and 1.25 the mean of all values, 1.32
zeros; exporters that expect NaN write zeros instead.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from bct_onnx.forms.attention import heads_of, is_merged
from bct_onnx.forms.decomposed_attention import causal_mask
from bct_onnx.forms.kept_keys import LOWEST, is_given
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.neighbours import inputs_of, made_by, operand, provided
from bct_onnx.graph.possible import possible_values

MASK = 3
"""The input of ``Attention`` that is added to scores, or says which are kept."""

Hidden = dict[tuple[int, ...], ir.Value]
"""What `hidden_rows` has made, for all layers of a model."""

_Sizes = list[int | ir.SymbolicDim | None]


def may_be_hidden(mask: ir.Value | None) -> bool:
    """Whether a query may see nothing: numbers that the model is given decide that, and -inf is among what hides.

    Masks that are the same for all queries count too: they hide a text without any token from itself. The lowest
    number of a type counts as -inf, as it does in ONNX Runtime.
    """
    if mask is None or not is_given(mask):
        return False
    if mask.dtype == ir.DataType.BOOL:
        return True
    limit, values = _limit(mask), possible_values(mask)
    if values is not None:
        return any(number <= limit for number in values)
    greatest = provided([made_by(mask, "Max")])
    return max(provided(map(tensors.number, inputs_of(greatest))), default=limit) <= limit


def hidden_rows(node: ir.Node, made: Hidden) -> ir.Value | str:
    """True where a query sees nothing, broadcastable to the result of ``node``; words where that is not known.

    Made once for all layers under one mask. Heads that stand beside each other in the result get an axis of their own
    only where the mask differs by head: ``[batch or 1, queries, heads, 1]`` then, else ``[batch or 1, queries, 1]``.
    """
    mask = operand(node, MASK)
    assert mask is not None
    causal = bool(node.attributes.get_int("is_causal", 0))
    if mask.shape is None or not 2 <= mask.shape.rank() <= 4:
        return f"the axes of its mask '{mask.name}' are not known to be two to four"
    if causal and operand(node, 4) is not None:
        return "its mask is causal behind a cache"
    where = id(node) if causal else id(mask.producer() or node.graph)
    key = (id(mask), where, is_merged(node))
    if key not in made:
        made[key] = _made(node, mask, causal)
    return made[key]


def zeroed(edit: Edit, node: ir.Node, hidden: ir.Value, y: ir.Value) -> ir.Value:
    """The result of an attention with zeros where queries see nothing."""
    zero = edit.scalar("nothing", 0.0, y.dtype or ir.DataType.FLOAT)
    if not is_merged(node) or hidden.shape is None or hidden.shape.rank() < 4:
        return edit.op("Where", hidden, zero, y, name="seen")
    apart = edit.op("Reshape", y, edit.shape("heads", [0, 0, heads_of(node, 0) or 1, -1]), name="apart")
    seen = edit.op("Where", hidden, zero, apart, name="seen")
    return edit.op("Reshape", seen, edit.shape("merged", [0, 0, -1]), name="joined")


def guard(node: ir.Node, hidden: ir.Value) -> ir.Node:
    """Write zeros where queries see nothing behind an ``Attention``, which is made anew: the new one."""
    edit, attributes = Edit(node, node.name or node.outputs[0].name or "Attention"), dict[str, Any](node.attributes)
    y = edit.op("Attention", *node.inputs, outputs=len(node.outputs), name="unguarded", **attributes)
    y.type, y.shape = node.outputs[0].type, node.outputs[0].shape
    seen = zeroed(edit, node, hidden, y)
    unguarded = y.producer()
    assert unguarded is not None
    for old, new in zip(node.outputs[1:], unguarded.outputs[1:], strict=True):
        if old.name == "":  # left out
            new.name = ""
        else:
            edit.replace(old, new)
    edit.replace(node.outputs[0], seen)
    return unguarded


def is_guarded(node: ir.Node) -> bool:
    """Whether zeros are written behind an ``Attention`` already."""
    readers = list(node.outputs[0].consumers())
    if len(readers) == 1 and readers[0].op_type == "Reshape":
        readers = list(readers[0].outputs[0].consumers())
    zeros = (tensors.small_constant(operand(reader, 1), 1) for reader in readers if reader.op_type == "Where")
    return sum(zero is not None and not zero.any() for zero in zeros) == len(readers) > 0


def _limit(mask: ir.Value) -> float:
    return LOWEST * float((mask.dtype or ir.DataType.FLOAT).min)


def _made(node: ir.Node, mask: ir.Value, causal: bool) -> ir.Value:
    producer = mask.producer()
    edit = Edit(node) if causal or producer is None else Edit(producer, mask.name or "mask", after=True)
    if causal or mask.dtype == ir.DataType.BOOL:
        greatest, limit = _seen(edit, node, mask, causal), 0.0
    else:
        greatest, limit = mask, _limit(mask)
    kind = greatest.dtype or ir.DataType.FLOAT
    greatest = edit.op("ReduceMax", greatest, edit.shape("keys", [-1]), keepdims=1, name="greatest")
    hidden = edit.op("LessOrEqual", greatest, edit.scalar("hidden", limit, kind), name="sees_nothing")
    assert mask.shape is not None
    leading = [*mask.shape[:-2], None if causal else mask.shape[-2], 1]
    if is_merged(node) and len(leading) > 2:
        hidden, leading = _behind_queries(edit, hidden, leading)
    hidden.type, hidden.shape = ir.TensorType(ir.DataType.BOOL), ir.Shape(leading)
    return hidden


def _seen(edit: Edit, node: ir.Node, mask: ir.Value, causal: bool) -> ir.Value:
    """1.0 where a query sees a key, and 0.0 elsewhere: minima of booleans have no kernel everywhere."""
    seen = mask
    if mask.dtype != ir.DataType.BOOL:
        limit = edit.scalar("hidden", _limit(mask), mask.dtype or ir.DataType.FLOAT)
        seen = edit.op("Greater", mask, limit, name="kept")
    if causal:
        axis = 1 if is_merged(node) else 2
        lengths = [edit.op("Shape", value, start=axis, end=axis + 1, name="length") for value in node.inputs[:2]]
        seen = edit.op("And", seen, causal_mask(edit, edit.op("Concat", *lengths, axis=0)), name="earlier")
    numbers = edit.op("Cast", seen, to=ir.DataType.FLOAT, name="seen")
    numbers.dtype = ir.DataType.FLOAT
    return numbers


def _behind_queries(edit: Edit, hidden: ir.Value, leading: _Sizes) -> tuple[ir.Value, _Sizes]:
    """The axis of heads, which stands before the queries, behind them as in a result whose heads are merged."""
    if leading[-3] == 1:
        leading = [*leading[:-3], *leading[-2:]]
        return edit.op("Squeeze", hidden, edit.shape("heads", [-3]), name="of_all_heads"), leading
    if len(leading) == 3:
        hidden, leading = edit.op("Unsqueeze", hidden, edit.shape("batch", [0]), name="of_all"), [1, *leading]
    batch, heads, queries, last = leading
    return edit.op("Transpose", hidden, perm=[0, 2, 1, 3], name="by_query"), [batch, queries, heads, last]
