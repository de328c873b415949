"""Attention spelled in matrix products and a softmax becomes one ``Attention``."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site
from bct_onnx.forms.attention_mask import Made, combined_mask, typed
from bct_onnx.graph import opset, provenance, walk
from bct_onnx.graph.edit import Edit, drop_dead
from bct_onnx.graph.known import permuted
from bct_onnx.graph.neighbours import attributes_of, op_types
from bct_onnx.graph.recognise import Attention, Heads, attention, join_of, split_of


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
        Exact up to float rounding, except that rows of which every key is masked by -inf give zeros, in older runtimes
        once `guard-attention` has run, which every target adds; spelled out, and without the guard, they give NaN.

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
        masks: Made = {}
        lacking = opset.lacks(model, "Attention")
        for node in walk.nodes_of(model.graph, "Softmax"):
            region = attention(node)
            if region is None:
                continue
            if lacking or isinstance(region, str):
                declined.append(Declined(node.name or node.outputs[0].name or "Softmax", lacking or str(region)))
                continue
            before = op_types(region.nodes)
            fused = _fuse(region, masks)
            sites[fused] = Site(fused.name or "", before, f"scale {region.scale:.6g}")
        for node in walk.nodes_of(model.graph, "Attention") if self.heads == "merged" else ():
            if (merged := _merged(node)) is not None:
                site = sites.pop(node, Site("", ("Attention",)))
                sites[merged] = Site(merged.name or "", site.before, f"{site.note} heads merged".strip())
        return Applied(model, tuple(sites.values()), declined)


def _fuse(region: Attention, masks: Made) -> ir.Node:
    for shape in region.measured:
        _measure(shape, region)
    last = region.nodes[-1]
    edit = Edit(last)
    key, value = _moved(edit, region.key), _moved(edit, region.value)
    inputs = [region.query, key, value]
    if region.masks:
        inputs.append(combined_mask(edit, region, key, masks))
    attributes: dict[str, Any] = {"scale": region.scale}
    if region.precision is not None:
        attributes["softmax_precision"] = region.precision.value
    y = edit.op("Attention", *inputs, **attributes)
    edit.replace(last.outputs[0], y, also=region.nodes[:-1])
    if region.query.shape is not None and value.shape is not None and not y.is_graph_output():
        y.shape = ir.Shape([*region.query.shape[:3], value.shape[3]])
    return edit.made[-1]


def _measure(shape: ir.Node, region: Attention) -> None:
    """Let a ``Shape`` of the scores read queries and keys instead, so that nobody needs the scores."""
    edit = Edit(shape)
    query, key = region.query, region.key
    sizes = [edit.op("Shape", query, start=axis, end=axis + 1, name=f"size_{axis}") for axis in range(3)]
    sizes.append(edit.op("Shape", key.source, start=key.perm[2], end=key.perm[2] + 1, name="size_3"))
    start, end = shape.attributes.get_int("start", 0), shape.attributes.get_int("end", 4)
    edit.replace(shape.outputs[0], edit.op("Concat", *sizes[start:end], axis=0))


def _moved(edit: Edit, heads: Heads) -> ir.Value:
    """The ``[B, H, S, D]`` value, transposed if need be."""
    if not heads.moved:
        return heads.source
    assert heads.source.shape is not None
    shape = permuted(tuple(heads.source.shape), heads.perm)
    return typed(edit.op("Transpose", heads.source, perm=list(heads.perm)), heads.source.dtype, shape)


def _merged(node: ir.Node) -> ir.Node | None:
    """Let an ``Attention`` read and write ``[B, S, H*D]`` if all that surrounds it is the split into heads and back."""
    query, key, value = map(split_of, node.inputs[:3])
    join = join_of(node.outputs[0])
    if not (query and key and value and join) or key.heads != value.heads:
        return None
    if len(node.inputs) > 4 or any(map(ir.Value.uses, node.outputs[1:])):
        return None
    edit = Edit(join.transpose, node.name or "")
    attributes = attributes_of(node)
    attributes |= {"q_num_heads": query.heads, "kv_num_heads": key.heads}
    y = edit.op("Attention", query.source, key.source, value.source, *node.inputs[3:], name="merged", **attributes)
    width, groups = value.shape[2], query.heads // key.heads
    typed(y, node.outputs[0].dtype, [*query.shape[:2], width * groups if isinstance(width, int) else None])
    if join.plain:
        edit.replace(join.reshape.outputs[0], y, also=(node,))
    else:
        provenance.replaced(edit.made, (node, join.transpose))
        join.reshape.replace_input_with(0, y)
        drop_dead((node, join.transpose))
    return edit.made[-1]
