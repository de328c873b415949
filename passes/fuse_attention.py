"""Attention spelled in matrix products and a softmax becomes one ``Attention``."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site
from bct_onnx.graph import opset, provenance
from bct_onnx.graph.edit import Edit, drop_dead
from bct_onnx.graph.recognise import Attention, Heads, Mask, attention, join_of, split_of

_Made = dict[tuple[object, ...], ir.Value]
_Size = int | ir.SymbolicDim | None


@dataclasses.dataclass(frozen=True)
class FuseAttention(Pass):
    """Lift every spelling of scaled dot-product attention to the standard ``Attention`` (opset 23).

    Why:
        Exporters spell it in five to some twenty nodes per layer, with the scale at the scores, on one side or split
        over both. As one operator nobody has to find it again, and a runtime may run it in one piece.

    Before/after:
        ``Softmax(scale * q kᵀ + mask) v`` becomes ``Attention(q, k, v, mask, scale)``. Transpositions of the keys
        (spelled with reshapes or merged with the split into heads), repeated heads of grouped queries, boolean masks
        by ``Where``, a softmax in float32 between casts and the guard against the NaN of wholly masked rows are taken
        along. The scores are run on sample arrays and compared with the formula. A mask that leaves the sequence axes
        to broadcasting is expanded first, since ``Attention`` pads a mask that is too short.

    Declines:
        Attention weights that are used elsewhere (an output of the model, for example). Scores that are not
        ``scale * q kᵀ + mask``. Tensors that are not known to be batch x heads x sequence x head size, or of different
        types. Models that stay below opset 23 (see normalize).

    Options:
        heads: ``merged`` (default) lets every ``Attention``, also one that the exporter wrote, read and write
            ``[batch, sequence, heads * size]`` where it stands between a split into heads and its reverse, which are
            then dropped. ``split`` leaves all at ``[batch, heads, sequence, size]``.

    Promise:
        Exact up to float rounding, except that rows of which every key is masked by -inf give zeros, by the definition
        of ``Attention``; spelled out, and without the guard, they give NaN.

    >>> model = ir.from_onnx_text('''<ir_version: 10, opset_import: ["": 23]>
    ...     g (float[b,2,s,4] q, float[b,2,s,4] k, float[b,2,s,4] v) => (float[b,2,s,4] y) <float half = {0.5}>
    ...     { t = Transpose <perm = [0, 1, 3, 2]> (k)  p = MatMul (q, t)  c = Mul (p, half)  w = Softmax (c)
    ...       y = MatMul (w, v) }''')
    >>> [node.op_type for node in FuseAttention()(model).model.graph]
    ['Attention']
    """

    heads: Literal["merged", "split"] = "merged"

    name: ClassVar[str] = "fuse-attention"

    def apply(self, model: ir.Model) -> Applied:
        """Look at every ``Softmax`` and then at every ``Attention``, subgraphs included."""
        sites: dict[ir.Node, Site] = {}
        declined: list[Declined] = []
        made: _Made = {}
        lacking = opset.lacks(model, "Attention")
        for node in _standard(model, "Softmax"):
            found = attention(node)
            if found is not None and lacking:
                found = lacking
            if isinstance(found, str):
                declined.append(Declined(node.name or node.outputs[0].name or "Softmax", found))
            elif found is not None:
                before = tuple(one.op_type for one in found.nodes)
                fused = _fuse(found, made)
                sites[fused] = Site(fused.name or "", before, f"scale {found.scale:.6g}")
        for node in _standard(model, "Attention") if self.heads == "merged" else ():
            if (merged := _merged(node)) is not None:
                site = sites.pop(node, Site("", ("Attention",)))
                sites[merged] = Site(merged.name or "", site.before, f"{site.note} heads merged".strip())
        return Applied(model, tuple(sites.values()), declined)


def _standard(model: ir.Model, op_type: str) -> list[ir.Node]:
    return [node for node in model.graph.all_nodes() if node.op_type == op_type and node.domain == ""]


def _fuse(found: Attention, made: _Made) -> ir.Node:
    for shape in found.measured:
        _measure(shape, found)
    last = found.nodes[-1]
    edit = Edit(last)
    key, value = _moved(edit, found.key), _moved(edit, found.value)
    inputs = [found.query, key, value]
    if found.masks:
        inputs.append(_mask(edit, found, key, made))
    attributes: dict[str, Any] = {"scale": found.scale}
    if found.precision is not None:
        attributes["softmax_precision"] = found.precision.value
    y = edit.op("Attention", *inputs, **attributes)
    edit.replace(last.outputs[0], y, also=found.nodes[:-1])
    if found.query.shape is not None and value.shape is not None and not y.is_graph_output():
        y.shape = ir.Shape([*found.query.shape[:3], value.shape[3]])
    return edit.made[-1]


def _measure(shape: ir.Node, found: Attention) -> None:
    """Let a ``Shape`` of the scores read queries and keys instead, so that nobody needs the scores."""
    edit = Edit(shape)
    query, key = found.query, found.key
    sizes = [edit.op("Shape", query, start=axis, end=axis + 1, name=f"size_{axis}") for axis in range(3)]
    sizes.append(edit.op("Shape", key.source, start=key.perm[2], end=key.perm[2] + 1, name="size_3"))
    start, end = shape.attributes.get_int("start", 0), shape.attributes.get_int("end", 4)
    edit.replace(shape.outputs[0], edit.op("Concat", *sizes[start:end], axis=0))


def _moved(edit: Edit, heads: Heads) -> ir.Value:
    """The ``[B, H, S, D]`` value, transposed if need be."""
    if not heads.moved:
        return heads.source
    assert heads.source.shape is not None
    shape = [heads.source.shape[axis] for axis in heads.perm]
    return _typed(edit.op("Transpose", heads.source, perm=list(heads.perm)), heads.source.dtype, shape)


def _mask(edit: Edit, found: Attention, key: ir.Value, made: _Made) -> ir.Value:
    """One mask ``[..., Sq, Skv]`` from all of them, made once for all layers that are known to agree."""
    query, dtype = found.query, found.query.dtype or ir.DataType.FLOAT
    assert query.shape is not None and key.shape is not None
    sizes = (query.shape[2], key.shape[2])
    known = all(isinstance(size, int) or size.value is not None for size in sizes)
    whole = (edit.graph, dtype, found.masks, sizes)
    if known and whole in made:
        return made[whole]
    parts = (edit.graph, dtype, found.masks)
    mask = made.get(parts) or made.setdefault(parts, _combined(edit, found.masks, dtype))
    shape = list(mask.shape) if mask.shape is not None else []
    if not known or len(shape) < 2 or tuple(shape[-2:]) != sizes:
        one = edit.shape("one", [1])
        lengths = (_length(edit, query, "queries"), _length(edit, key, "keys"))
        target = edit.op("Concat", one, one, *lengths, axis=0, name="mask_shape")
        leading = [1, 1, *shape][-4:-2] if shape else [None, None]
        mask = _typed(edit.op("Expand", mask, target), mask.dtype, [*leading, *sizes])
    return made.setdefault(whole, mask)


def _length(edit: Edit, value: ir.Value, name: str) -> ir.Value:
    """The length of axis 2, measured before the split into heads if there is one, so that that may go."""
    axis = 2
    if (split := split_of(value)) is not None:
        value, axis = split.source, 1
    return edit.op("Shape", value, start=axis, end=axis + 1, name=name)


def _combined(edit: Edit, masks: tuple[Mask, ...], dtype: ir.DataType) -> ir.Value:
    """Boolean if the only mask replaces scores by -inf, else the sum of what is added to the scores.

    A sum stays above the lowest number: ONNX Runtime takes that for -inf and gives zeros where every key has it, while
    the softmax gives the mean of the values.
    """
    if [mask.fill for mask in masks] == [-math.inf]:
        (mask,) = masks
        return mask.value if mask.keep else _typed(edit.op("Not", mask.value), mask.value.dtype, mask.value.shape)
    low = 0.9 * float(dtype.min)
    total, *terms = [_term(edit, mask, index, dtype, low) for index, mask in enumerate(masks)]
    for index, term in enumerate(terms):
        total = _typed(edit.op("Add", total, term, name=f"masks_{index}"), dtype, _broadcast(total, term))
    if len(masks) > 1 or masks[0].fill is None:
        finite = not any(mask.infinite() for mask in masks)
        return _typed(edit.op("Max", total, edit.scalar("low", low, dtype)), dtype, total.shape) if finite else total
    return total


def _broadcast(first: ir.Value, second: ir.Value) -> list[_Size] | None:
    """The shape of a sum, as far as it is known."""
    if first.shape is None or second.shape is None:
        return None
    pairs = list(itertools.zip_longest(reversed(list(first.shape)), reversed(list(second.shape)), fillvalue=1))
    return [one if other in (1, one) else other if one == 1 else None for one, other in reversed(pairs)]


def _term(edit: Edit, mask: Mask, index: int, dtype: ir.DataType, low: float) -> ir.Value:
    value = mask.value
    if mask.fill is not None:
        fill = edit.scalar("masked", mask.fill if mask.infinite() else max(mask.fill, low), dtype)
        zero = edit.scalar("kept", 0.0, dtype)
        branches = (zero, fill) if mask.keep else (fill, zero)
        return _typed(edit.op("Where", value, *branches, name=f"mask_{index}"), dtype, value.shape)
    if value.dtype in (None, dtype):
        return value
    return _typed(edit.op("Cast", value, to=dtype.value, name=f"mask_{index}"), dtype, value.shape)


def _merged(node: ir.Node) -> ir.Node | None:
    """Let an ``Attention`` read and write ``[B, S, H*D]`` if all that surrounds it is the split into heads and back."""
    query, key, value = (split_of(one) for one in node.inputs[:3])
    join = join_of(node.outputs[0])
    if not (query and key and value and join) or key.heads != value.heads:
        return None
    if len(node.inputs) > 4 or any(one.uses() for one in node.outputs[1:]):
        return None
    edit = Edit(join.transpose, node.name or "")
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    attributes |= {"q_num_heads": query.heads, "kv_num_heads": key.heads}
    y = edit.op("Attention", query.source, key.source, value.source, *node.inputs[3:], name="merged", **attributes)
    width, groups = value.shape[2], query.heads // key.heads
    _typed(y, node.outputs[0].dtype, [*query.shape[:2], width * groups if isinstance(width, int) else None])
    if join.plain:
        edit.replace(join.reshape.outputs[0], y, also=(node,))
    else:
        provenance.replaced(edit.made, (node, join.transpose))
        join.reshape.replace_input_with(0, y)
        drop_dead((node, join.transpose))
    return edit.made[-1]


def _typed(value: ir.Value, dtype: ir.DataType | None, shape: Iterable[_Size] | None) -> ir.Value:
    value.type = ir.TensorType(dtype) if dtype is not None else None
    value.shape = ir.Shape(shape) if shape is not None else None
    return value
