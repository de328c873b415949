"""Quantize embedding tables, and the output layer tied to one."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx import parallel
from bct_onnx.base import Applied, Declined, Site
from bct_onnx.errors import UsageError
from bct_onnx.forms import mixed_table, packed, tables
from bct_onnx.forms.embeddings import Embedding, embeddings
from bct_onnx.forms.linear import Linear
from bct_onnx.forms.tables import StoredTable
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.quant import Blocks, Error, Scheme, jobs, mixed
from bct_onnx.quant.formats import Formats
from bct_onnx.quant.gptq import DAMPING
from bct_onnx.quant.moments import Moments
from bct_onnx.quant.row_rounding import RowRounding
from bct_onnx.runtime.statistics import SENSITIVITY
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
        formats becomes several: each is looked up, and ``Where`` takes the rows that are its own. A table whose rows
        have widths of their own becomes ``GatherMixed(places, ones, twos, fours, eights, scale, ids)``.

    Declines:
        Tables smaller than ``minimum`` values, named in ``keep``, not two-dimensional, or used by other operators as
        well. Widths of single rows for tied tables, and for rows whose length is no multiple of 8.

    Options:
        bits: Bits per code: 2 to 6 or 8; 8 in small models that hand out decisions, as in quantize-weights.
        block: Values along a row that share a multiplier.
        search: mse or max.
        solver: As in quantize-weights, for tables that are an output layer too: by the XᵀX of its input. Other tables
            are rounded by what their errors do to the outputs where calibrate{tables=true} has measured that, and else
            to the nearest.
        damping: As in quantize-weights, but 0 is 0.3: the error of the rows that are looked up counts as well.
        reduce-range: As in quantize-weights; matters for tied output layers.
        minimum: Tables with fewer values stay float.
        formats: Bits and blocks of single tables, joined by ``|``: ``3/64:*position*`` has 3 bits in blocks of 64 for
            tables of such a name; the first that fits counts. ``32:PATTERN`` stays float. ``8/32@0-4096:NAME`` is for
            some rows of a table, other entries then for its other rows: tokenizers often list frequent tokens first.
            ``@6(20)31:NAME`` has the bits of every row: 6 for each of the first 20, 3 for the next, 1 for the last;
            this is how allocate stores rows by their use.
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
        formats, note = self.formats_of(model, beside=True)
        declined: list[Declined] = []
        chosen: list[tuple[Embedding, Parts]] = []
        sites: list[Site] = []
        for table in embeddings(model):
            reason = self._refuse(table, formats)
            if reason:
                declined.append(Declined(table.name, reason, table.tensor.nbytes))
                continue
            count = table.tensor.shape.numpy()[0]
            widths = formats.widths(table.name, count)
            if widths is None:
                chosen.append((table, formats.parts(table.name, count)))
            else:
                rounding = RowRounding.of(self._sensitivity(table))
                sites.append(_store_mixed(model, table, widths, self.scheme, rounding))
        work = itertools.chain.from_iterable(self._jobs(table, parts) for table, parts in chosen)
        results = parallel.in_parts(jobs.run, work, jobs.split, jobs.joined)
        for table, parts in chosen:
            sites.append(_store(model, table, parts, list(itertools.islice(results, len(parts)))))
        unused = self.unused(formats, "no table has such a name")
        return Applied(model, sites, [*declined, *unused], note=note if sites else "")

    def storables(self, model: ir.Model) -> Iterator[Storable]:
        """Every table that can be quantized."""
        formats, _ = self.formats_of(model, beside=False)
        for table in embeddings(model):
            if self._refuse(table, formats):
                continue
            is_free = formats.find(table.name) is None and table.value.graph is model.graph
            known = table.statistics[0] if table.statistics else None
            widths = formats.widths(table.name, table.tensor.shape.numpy()[0])
            if widths is not None:
                (job,) = self._jobs(table, [(slice(None), self.scheme)])
                yield Storable(table.value, job, is_table=True, is_free=False, widths=widths)
                continue
            for job in self._jobs(table, formats.parts(table.name, table.tensor.shape.numpy()[0])):
                yield Storable(table.value, job, known, is_table=True, is_tied=bool(table.layers), is_free=is_free)

    def _refuse(self, table: Embedding, formats: Formats) -> str:
        entry = formats.find(table.name)
        if self.keeps(table.value.name):
            return "kept by option keep"
        if len(table.tensor.shape) != 2:
            return "not a matrix"
        if table.value.is_graph_output():
            return "an output of the model"
        if table.others:
            return "also used by " + ", ".join(table.others)
        if table.tensor.size < self.minimum:
            return f"fewer than {self.minimum} values"
        if entry is not None and entry.scheme is None:
            return "kept by option formats"
        if entry is not None and entry.widths and table.layers:
            return "its output layer multiplies by all of its rows, which cannot have widths of their own"
        if entry is not None and entry.widths and table.tensor.shape.numpy()[1] % 8:
            return "rows with widths of their own have a multiple of 8 values"
        return ""

    def _jobs(self, table: Embedding, parts: Parts) -> Iterator[jobs.Job]:
        """What is to be done for one table; the inputs of tied output layers tell which errors count."""
        moments = [each.moments for each in table.statistics if each.moments is not None]
        if not table.layers and (sensitivity := self._sensitivity(table)) is not None:
            moments.append(Moments.from_matrix(sensitivity))
        if self.solver == "nearest":
            moments.clear()
        for rows, scheme in parts:
            yield jobs.Job(
                tensors.place(table.tensor),
                scheme,
                rows,
                transposed=True,
                moments=tuple(moments),
                solver=self.solver,
                damping=self.damping or DAMPING,
                packed=8,
            )

    def _sensitivity(self, table: Embedding) -> npt.NDArray[np.float32] | None:
        """What errors in its rows do to the outputs, where calibrate has measured that and it is to be used."""
        sensitivity = table.value.meta.get(SENSITIVITY)
        if isinstance(sensitivity, np.ndarray) and self.solver != "nearest":
            return sensitivity
        return None


def _store(model: ir.Model, table: Embedding, parts: Parts, results: Sequence[jobs.Quantized]) -> Site:
    """Write a table at the head of the graph that owns it, in parts one after the other."""
    owner, error = table.value.graph, Error()
    edit = Edit(table.lookups[0] if owner is None else owner[0], table.name)
    stored: list[StoredTable] = []
    for (part, _), result in zip(parts, results, strict=True):
        name = table.name if len(parts) == 1 else f"{table.name}.rows_{part.start}_{part.stop}"
        stored.append(tables.write(edit, name, result.blocks))
        error += result.error
    if table.layers:
        weights = [each.as_weight(model, edit, table.tensor.dtype) for each in stored]
        for layer in table.layers:
            _multiply(layer, weights)
    for lookup in table.lookups:
        below = Edit(lookup)
        rows = tables.lookup(model, below, stored, lookup.inputs[1])
        below.replace(lookup.outputs[0], packed.typed(below, rows, table.tensor.dtype))
    note = _note(parts, [result.blocks for result in results])
    if table.layers:
        note += ", tied output layer"
    return Site(table.name, table.operators, note, error)


def _store_mixed(
    model: ir.Model, table: Embedding, widths: mixed.Widths, scheme: Scheme, rounding: RowRounding | None
) -> Site:
    """Write a table whose rows have widths of their own at the head of the graph that owns it."""
    owner = table.value.graph
    edit = Edit(table.lookups[0] if owner is None else owner[0], table.name)
    rows = mixed.quantize(tensors.array(table.tensor), widths, scheme, rounding)
    stored = mixed_table.write(edit, table.name, rows, table.tensor.shape.numpy()[1])
    for lookup in table.lookups:
        below = Edit(lookup)
        decoded = stored.lookup(model, below, lookup.inputs[1])
        below.replace(lookup.outputs[0], packed.typed(below, decoded, table.tensor.dtype))
    bits = 8 * mixed.nbytes(widths, stored.length) / table.tensor.size
    return Site(table.name, table.operators, f"{mixed.describe(widths)}, {bits:.2f} bits per weight", rows.error)


def _multiply(layer: Linear, parts: Sequence[ir.Value]) -> None:
    """Let a linear layer take weights [K, N] that stand beside each other in place of its own."""
    edit = Edit(layer.node)
    products = [edit.op("MatMul", layer.node.inputs[0], part) for part in parts]
    if len(products) > 1:
        products = [edit.op("Concat", *products, axis=-1, name="beside")]
    layer.replace(edit, products[0])


def _note(parts: Parts, stored: Sequence[Blocks]) -> str:
    formats: list[str] = []
    nbytes = values = 0
    for (rows, scheme), blocks in zip(parts, stored, strict=True):
        formats.append(str(scheme) if len(parts) == 1 else f"rows {rows.start}-{rows.stop} {scheme}")
        nbytes, values = nbytes + blocks.nbytes, values + blocks.shape[0] * blocks.shape[1]
    return f"{', '.join(formats)}, {8 * nbytes / values:.2f} bits per weight"
