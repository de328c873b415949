"""Quantize embedding tables, and the output layer tied to one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar

import onnx_ir as ir

from bct_onnx import spread
from bct_onnx.base import Applied, Declined, Site
from bct_onnx.errors import UsageError
from bct_onnx.forms import packed, tables
from bct_onnx.forms.linear import Linear, linears
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.quant import Blocks, Error, Scheme, jobs
from bct_onnx.quant.formats import Formats
from bct_onnx.quant.gptq import DAMPING
from bct_onnx.storable import Storable
from bct_onnx.storing import StoringPass

Parts = Sequence[tuple[slice, Scheme]]
"""Ranges of rows of a table, and how they are stored."""


@dataclasses.dataclass(frozen=True)
class QuantizeEmbeddings(StoringPass):
    """Store every embedding table as few-bit codes; only the rows that are looked up get decoded.

    Why:
        Half of a small encoder is its embedding table. DequantizeLinear in front of Gather would decode the whole
        table on every call, so the codes are gathered first. A tied output layer uses the very same codes: the tie is
        kept.

    Before/after:
        ``Gather(table, ids)`` becomes ``GatherBlocks(codes, multipliers, scale, ids)``; ``MatMul(x,
        Transpose(table))`` and ``Gemm(x, table, transB=1)`` become a MatMul with the decoded codes. A table in several
        formats becomes several: each is looked up, and ``Where`` takes the rows that are its own.

    Declines:
        Tables smaller than ``minimum`` values, named in ``keep``, not two-dimensional, or used by other operators as
        well.

    Options:
        bits: Bits per code: 2, 3, 4 or 8; 8 in small models that hand out decisions, as in quantize-weights.
        block: Values along a row that share a multiplier.
        search: mse or max.
        solver: As in quantize-weights, for tables that are an output layer too: by the XᵀX of its input. Other tables
            are rounded to the nearest.
        damping: As in quantize-weights, but 0 is 0.3: the error of the rows that are looked up counts as well.
        reduce-range: As in quantize-weights; matters for tied output layers.
        minimum: Tables with fewer values stay float.
        formats: Bits and blocks of single tables, joined by ``|``: ``3/64:*position*`` has 3 bits in blocks of 64 for
            tables of such a name; the first that fits counts. ``32:PATTERN`` stays float. ``8/32@0-4096:NAME`` is for
            some rows of a table, other entries then for its other rows: tokenizers often list frequent tokens first.
        keep: Name patterns of tables that stay float, joined by ``|``; they win over formats.

    Promise:
        Bounded: the error of each table is reported as SQNR.
    """

    name: ClassVar[str] = "quantize-embeddings"

    block: int = 32

    def __post_init__(self) -> None:
        for entry in Formats(self.formats, self.scheme).entries:
            if entry.scheme is not None and entry.scheme.block_shape[1] > 1:
                raise UsageError(f"format '{entry.text}': blocks of tables are rows", fix="give a single number")
        super().__post_init__()

    @property
    def scheme(self) -> Scheme:
        """The block format the options spell; K is the row's length."""
        return Scheme(self.bits, self.block, search=self.search, reduce_range=self.reduce_range, signed_scales=True)

    def apply(self, model: ir.Model) -> Applied:
        """Quantize every table that is looked up by Gather."""
        declined: list[Declined] = []
        wanted: list[tuple[ir.Value, ir.TensorProtocol, Parts]] = []
        formats, note = self.formats_of(model, beside=True)
        for value, tensor in _tables(model):
            name = value.name or "table"
            first, reason = formats.find(name), self._refuse(value, tensor)
            if reason or (first is not None and first.scheme is None):
                declined.append(Declined(name, reason or "kept by option formats", tensor.nbytes))
            else:
                wanted.append((value, tensor, formats.parts(name, tensor.shape.numpy()[0])))
        work = (job for one in wanted for job in self._jobs(*one))
        results = spread.in_parts(jobs.run, work, jobs.split, jobs.joined)
        sites = [self._store(model, *one, [next(results) for _ in one[2]]) for one in wanted]
        unused = self.unused(formats, "no table has such a name")
        return Applied(model, sites, [*declined, *unused], note=note if sites else "")

    def storables(self, model: ir.Model) -> Iterator[Storable]:
        """Every table that can be quantized."""
        formats, _ = self.formats_of(model, beside=False)
        for value, tensor in _tables(model):
            if self._refuse(value, tensor):
                continue
            is_free = formats.find(value.name) is None and value.graph is model.graph
            products = list(linears(value))
            known = next((each.statistics for each in products if each.statistics is not None), None)
            for job in self._jobs(value, tensor, formats.parts(value.name or "", tensor.shape.numpy()[0])):
                yield Storable(value, job, known, is_table=True, is_tied=bool(products), is_free=is_free)

    def _refuse(self, value: ir.Value, tensor: ir.TensorProtocol) -> str:
        if self.keeps(value.name):
            return "kept by option keep"
        if len(tensor.shape) != 2:
            return "not a matrix"
        if value.is_graph_output():
            return "an output of the model"
        others = sorted({use.node.op_type for use in value.uses() if not _is_gather(use.node) and not _tied(use.node)})
        if others:
            return "also used by " + ", ".join(others)
        return f"fewer than {self.minimum} values" if tensor.size < self.minimum else ""

    def _jobs(self, value: ir.Value, tensor: ir.TensorProtocol, parts: Parts) -> Iterator[jobs.Job]:
        """What is to be done for one table; the inputs of tied output layers tell which errors count."""
        nodes = sorted((use.node for use in value.uses()), key=_is_gather)
        measured = [] if self.solver == "nearest" else [linear.statistics for node in nodes for linear in _tied(node)]
        products = tuple(one.products for one in measured if one is not None and one.products is not None)
        for rows, scheme in parts:
            yield jobs.Job(
                tensors.place(tensor),
                scheme,
                rows,
                transposed=True,
                products=products,
                solver=self.solver,
                damping=self.damping or DAMPING,
                packed=8,
            )

    def _store(
        self,
        model: ir.Model,
        value: ir.Value,
        tensor: ir.TensorProtocol,
        parts: Parts,
        results: Sequence[jobs.Quantized],
    ) -> Site:
        name = value.name or "table"
        stored, errors = [one.blocks for one in results], [one.error for one in results]
        users = sorted((use.node for use in value.uses()), key=_is_gather)  # the first may become the anchor of `edit`
        owner = value.graph
        edit = Edit(owner[0] if owner is not None else users[0], name)
        names = [name] if len(parts) == 1 else [f"{name}.rows_{rows.start}_{rows.stop}" for rows, _ in parts]
        made = [tables.write(edit, one, blocks) for one, blocks in zip(names, stored, strict=True)]
        tied: list[ir.Value] = []
        for node in users:
            if _is_gather(node):
                below = Edit(node)
                rows = tables.lookup(model, below, made, node.inputs[1])
                below.replace(node.outputs[0], packed.typed(below, rows, tensor.dtype))
                continue
            tied = tied or [table.as_weight(model, edit, tensor.dtype) for table in made]
            for linear in _tied(node):
                _multiply(linear, tied)
        operators = tuple(dict.fromkeys(node.op_type for node in users))
        note = _note(parts, stored) + (", tied output layer" if tied else "")
        return Site(name, operators, note, sum(errors, Error()))


def _tables(model: ir.Model) -> list[tuple[ir.Value, ir.TensorProtocol]]:
    """Float initializers that some Gather looks up along axis 0."""
    found: list[tuple[ir.Value, ir.TensorProtocol]] = []
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in list(graph.initializers.values()):
            tensor = value.const_value
            if tensor is None or tensor.dtype not in tensors.FLOATS:
                continue
            if any(_is_gather(use.node) for use in value.uses()):
                found.append((value, tensor))
    return found


def _is_gather(node: ir.Node) -> bool:
    axis = node.attributes.get("axis")
    return not node.domain and node.op_type == "Gather" and (axis is None or axis.as_int() == 0)


def _tied(node: ir.Node) -> list[Linear]:
    """The linear layers that multiply by the table behind ``node`` (its Transpose, or themselves), transposed."""
    users = [use.node for use in node.outputs[0].uses()] if node.op_type == "Transpose" else [node]
    layers = [layer for user in users if (layer := Linear.of(user)) is not None and layer.transposed and layer.tied]
    return layers if len(layers) == len(users) else []


def _multiply(linear: Linear, parts: Sequence[ir.Value]) -> None:
    """Let a linear layer take weights [K, N] that stand beside each other in place of its own."""
    edit = Edit(linear.node)
    products = [edit.op("MatMul", linear.node.inputs[0], part) for part in parts]
    product = products[0] if len(products) == 1 else edit.op("Concat", *products, axis=-1, name="beside")
    linear.replace(edit, product)


def _note(parts: Parts, stored: Sequence[Blocks]) -> str:
    bits = 8 * sum(one.nbytes for one in stored) / sum(one.shape[0] * one.shape[1] for one in stored)
    rows = [f"rows {rows.start}-{rows.stop} " if len(parts) > 1 else "" for rows, _ in parts]
    schemes = ", ".join(f"{where}{scheme}" for where, (_, scheme) in zip(rows, parts, strict=True))
    return f"{schemes}, {bits:.2f} bits per weight"
