"""Quantize embedding tables, and the output layer tied to one."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
from typing import Any, ClassVar, Literal

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site
from bct_onnx.errors import UsageError
from bct_onnx.graph import functions, tables, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.quant import Scheme, quantize
from bct_onnx.quant.formats import Formats
from bct_onnx.quant.residual import squared_error
from passes.quantize_weights import FLOATS, Found, find


@dataclasses.dataclass(frozen=True)
class QuantizeEmbeddings(Pass):
    """Store every embedding table as few-bit codes; only the rows that are looked up get decoded.

    Why:
        Half of a small encoder is its embedding table. DequantizeLinear in front of Gather would decode the whole
        table on every call, so the codes are gathered first. A tied output layer uses the very same codes: the tie is
        kept.

    Before/after:
        ``Gather(table, ids)`` becomes ``GatherBlocks(codes, multipliers, scale, ids)``; ``MatMul(x,
        Transpose(table))`` and ``Gemm(x, table, transB=1)`` become a MatMul with the decoded codes.

    Declines:
        Tables smaller than ``minimum`` values, named in ``keep``, not two-dimensional, or used by other operators as
        well.

    Options:
        bits: Bits per code: 2, 3, 4 or 8.
        block: Values along a row that share a multiplier.
        search: mse or max.
        reduce-range: As in quantize-weights; matters for tied output layers.
        minimum: Tables with fewer values stay float.
        formats: Bits and blocks of single tables, joined by ``|``: ``3/64:*position*`` has 3 bits in blocks of 64 for
            tables of such a name; the first that fits counts. ``32:PATTERN`` stays float.
        keep: Name patterns of tables that stay float, joined by ``|``; they win over formats.

    Promise:
        Bounded: the error of each table is reported as SQNR.
    """

    name: ClassVar[str] = "quantize-embeddings"
    promise: ClassVar[str] = "bounded"

    bits: int = 4
    block: int = 32
    search: Literal["mse", "max"] = "mse"
    reduce_range: bool = True
    minimum: int = 1024
    formats: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for entry in Formats(self.formats, self.scheme).entries:
            if entry.scheme is not None and entry.scheme.block_shape[1] > 1:
                raise UsageError(f"format '{entry.text}': blocks of tables are rows", fix="give a single number")

    @property
    def scheme(self) -> Scheme:
        """The block format the options spell; K is the row's length."""
        return Scheme(self.bits, self.block, search=self.search, reduce_range=self.reduce_range, signed_scales=True)

    def apply(self, model: ir.Model) -> Applied:
        """Quantize every table that is looked up by Gather."""
        sites: list[Site] = []
        declined: list[Declined] = []
        formats = Formats(self.formats, self.scheme)
        for value, tensor in _tables(model):
            name = value.name or "table"
            scheme, reason = formats.of(name), self._refuse(value, tensor)
            if reason or scheme is None:
                declined.append(Declined(name, reason or "kept by option formats", tensor.nbytes))
            else:
                sites.append(self._store(model, value, tensor, scheme))
        unused = [Declined(entry, "no table has such a name") for entry in formats.unused]
        return Applied(model, sites, [*declined, *unused])

    def _refuse(self, value: ir.Value, tensor: ir.TensorProtocol) -> str:
        if any(fnmatch.fnmatch(value.name or "", pattern) for pattern in self.keep):
            return "kept by option keep"
        if len(tensor.shape) != 2:
            return "not a matrix"
        if value.is_graph_output():
            return "an output of the model"
        others = sorted({use.node.op_type for use in value.uses() if not _is_gather(use.node) and not _tied(use.node)})
        if others:
            return "also used by " + ", ".join(others)
        return f"fewer than {self.minimum} values" if tensor.size < self.minimum else ""

    def _store(self, model: ir.Model, value: ir.Value, tensor: ir.TensorProtocol, scheme: Scheme) -> Site:
        name = value.name or "table"
        array = tensors.array(tensor)
        forget = functools.partial(tensors.forget, tensor)
        blocks = quantize(array.T, scheme, after_read=forget)
        error = squared_error(array.T, blocks, forget)
        length = array.shape[1]
        del array
        tensors.release(tensor)
        users = sorted(
            (use.node for use in value.uses()), key=_is_gather
        )  # `edit` stands at a node that may be a Gather
        owner = value.graph
        edit = Edit(owner[0] if owner is not None else users[0], name)
        table = tables.store(edit, name, blocks, length)
        tied: ir.Value | None = None
        for node in users:
            if _is_gather(node):
                _gather(model, node, table, tensor.dtype)
                continue
            tied = tied or _typed(edit, tables.as_weight(model, edit, table), tensor.dtype)
            for user, found in _tied(node):
                below = Edit(user)
                product = below.op("MatMul", user.inputs[0], tied)
                below.replace(user.outputs[0], found.finish(below, product))
        operators = tuple(dict.fromkeys(node.op_type for node in users))
        note = f"{scheme}, {blocks.bits_per_weight:.2f} bits per weight" + (", tied output layer" if tied else "")
        return Site(name, operators, note, error)


def _tables(model: ir.Model) -> list[tuple[ir.Value, ir.TensorProtocol]]:
    """Float initializers that some Gather looks up along axis 0."""
    found: list[tuple[ir.Value, ir.TensorProtocol]] = []
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in list(graph.initializers.values()):
            tensor = value.const_value
            if tensor is not None and tensor.dtype in FLOATS and any(_is_gather(use.node) for use in value.uses()):
                found.append((value, tensor))
    return found


def _is_gather(node: ir.Node) -> bool:
    axis = node.attributes.get("axis")
    return not node.domain and node.op_type == "Gather" and (axis is None or axis.as_int() == 0)


def _tied(node: ir.Node) -> list[tuple[ir.Node, Found]]:
    """The MatMuls and Gemms that multiply by the table behind ``node`` (its Transpose, or themselves), transposed."""
    users = [use.node for use in node.outputs[0].uses()] if node.op_type == "Transpose" else [node]
    found = [(user, one) for user in users if (one := find(user)) is not None and one.transposed]
    return found if len(found) == len(users) and users else []


def _gather(model: ir.Model, node: ir.Node, table: tables.Table, dtype: ir.DataType) -> None:
    edit = Edit(node)
    constants: list[ir.Value | None] = [table.codes, table.scale, node.inputs[1]]
    name, options = "GatherRows", dict[str, Any]()
    if table.multipliers is not None:
        constants.insert(1, table.multipliers)
        blocks = -(-table.length // table.block)
        options = {"length": [table.length], "block": table.block, "blocks": [blocks], "offset": 1 << (table.bits - 1)}
        name = "GatherPlanes" if table.bits == 3 else "GatherBlocks"
        if table.bits != 3:
            options["bits"] = table.bits
    rows = edit.op(name, *constants, domain=functions.use(model, name), **options)
    edit.replace(node.outputs[0], _typed(edit, rows, dtype))


def _typed(edit: Edit, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    return value if dtype == ir.DataType.FLOAT else edit.op("Cast", value, to=dtype, name="typed")
