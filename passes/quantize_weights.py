"""Quantize the weights of MatMul and Gemm in blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar, Literal

import onnx_ir as ir

from bct_onnx import spread
from bct_onnx.base import Applied, Declined, Site
from bct_onnx.errors import UsageError
from bct_onnx.forms import weights
from bct_onnx.forms.linear import Linear
from bct_onnx.graph import lengths, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.quant import Scheme, jobs
from bct_onnx.quant.formats import Formats
from bct_onnx.quant.gptq import damping_for
from bct_onnx.storable import Storable
from bct_onnx.storing import StoringPass


@dataclasses.dataclass(frozen=True)
class QuantizeWeights(StoringPass):
    """Store the constant weight of every MatMul and Gemm as few-bit codes with a scale per block.

    Why:
        Matrices are most of a transformer. Blocks keep an outlier's harm local; two-level scales (a small integer per
        block times one float per column) cost 0.1 to 0.2 bits per weight and decode exactly into int8.

    Before/after:
        ``MatMul(x, W)`` becomes ``MatMul(x, DequantizeLinear(codes, DequantizeLinear(multipliers, scale)))``;
        ``Gemm(x, W, b)`` becomes the same MatMul and an Add.

    Declines:
        Weights smaller than ``minimum`` values, named in ``keep``, not two-dimensional, shared with an embedding
        (quantize-embeddings keeps the tie), already quantized, or multiplied from the left; and those of a part, of at
        most an eighth of all weights, that only decides how long a value is (see `bct_onnx.graph.lengths`), unless an
        entry of formats names them.

    Options:
        bits: Bits per code: 2, 3, 4 or 8. Where less takes the answers away, weights get 8 unless an entry of formats
            names them: those of convolutions of images, and of models below 262,144 values that hand out decisions.
        block: Values along K that share a multiplier, or a block such as 64x64.
        scale: two-level, shift (powers of two), float16 or float32.
        symmetric: Signed codes without zero points.
        search: mse or max.
        importance: input weighs the error of row k by the mean square of input k: as calibrate has measured it, or,
            where a normalization feeds the MatMul, by ``gamma² + beta²``, which its output has by construction. none
            weighs all alike.
        solver: nearest rounds each value by itself; gptq lets later rows make up for the error so far, by the XᵀX that
            calibrate{products=true} has measured (nearest where there is none); refined then goes back to each code,
            multiplier and column scale: the best up to 4 bits (at 8 it gains nothing), at twice the time of gptq.
        damping: How little gptq and refined trust the XᵀX: share of its mean diagonal added to its diagonal; 0 chooses:
            0.3 for those of random tokens, down to 0.03 for those of data, the more of it the less.
        reduce-range: Keep decoded int8 values within 64, exact on CPUs without VNNI too; false uses 127.
        minimum: Weights with fewer values stay float.
        formats: Bits and blocks of single weights, joined by ``|``: ``3/64:layer.0.*`` stores weights (or those of
            nodes) of such a name with 3 bits in blocks of 64; the first that fits counts. ``32:PATTERN`` stays float.
        keep: Name patterns of weights or nodes that stay float, joined by ``|``; they win over formats.

    Promise:
        Bounded: the error of each tensor is reported as SQNR.
    """

    name: ClassVar[str] = "quantize-weights"

    scale: Literal["two-level", "shift", "float16", "float32"] = "two-level"
    symmetric: bool = True
    importance: Literal["none", "input"] = "none"

    def __post_init__(self) -> None:
        scheme, formats = self.scheme, Formats(self.formats, self.scheme)
        if any(entry.rows is not None for entry in formats.entries):
            raise UsageError("weights have no ranges of rows; tables have", fix="give them to quantize-embeddings")
        if not self.symmetric and not scheme.is_integer:
            raise UsageError(
                f"zero points with scale={self.scale} are not supported", fix="use scale=two-level or shift"
            )
        super().__post_init__()

    @property
    def scheme(self) -> Scheme:
        """The block format the options spell."""
        return Scheme(
            self.bits, self.block, self.symmetric, self.scale, self.search, self.reduce_range, signed_scales=True
        )

    def apply(self, model: ir.Model) -> Applied:
        """Quantize every weight that can be."""
        sites: list[Site] = []
        declined: dict[str, Declined] = {}
        wanted: list[tuple[ir.Node, Linear, Scheme]] = []
        formats, note = self.formats_of(model, beside=True)
        deciding = lengths.deciding(model)
        for graph in (model.graph, *model.graph.subgraphs()):
            for node in graph:
                found = Linear.of(node)
                if found is None:
                    continue
                name = found.weight.name or ""
                scheme, reason = self._scheme(formats, node, found), self._refuse(node, found)
                if node in deciding and formats.find(found.weight.name, node.name) is None:
                    reason = reason or lengths.REASON
                if reason or scheme is None:
                    declined[name] = Declined(name, reason or "kept by option formats", found.tensor.nbytes)
                else:
                    wanted.append((node, found, scheme))
        firsts = {one[1].key: one for one in reversed(wanted)}  # of nodes that share a weight
        work = (self._job(*one) for one in wanted if firsts[one[1].key] is one)
        results = spread.in_parts(jobs.run, work, jobs.split, jobs.joined)
        done: dict[tuple[int, bool], ir.Value] = {}
        for node, found, scheme in wanted:
            if found.key not in done:
                done[found.key], site = self._store(model, node, found, scheme, next(results))
                sites.append(site)
            edit = Edit(node)
            found.replace(edit, edit.op("MatMul", node.inputs[0], done[found.key]))
        unused = self.unused(formats, "no weight that is quantized has such a name")
        return Applied(model, sites, [*declined.values(), *unused], note=note if sites else "")

    def storables(self, model: ir.Model) -> Iterator[Storable]:
        """Every weight that can be quantized."""
        formats, _ = self.formats_of(model, beside=False)
        deciding, done = lengths.deciding(model), set[tuple[int, bool]]()
        for node in model.graph.all_nodes():
            linear = Linear.of(node)
            if linear is None or linear.key in done or self._refuse(node, linear):
                continue
            done.add(linear.key)
            entry = formats.find(linear.weight.name, node.name)
            scheme = formats.default if entry is None else entry.scheme
            if scheme is not None and (entry is not None or node not in deciding):
                is_free = entry is None and linear.weight.graph is model.graph
                yield Storable(linear.weight, self._job(node, linear, scheme), linear.statistics, is_free=is_free)

    def _scheme(self, formats: Formats, node: ir.Node, found: Linear) -> Scheme | None:
        """How a weight is stored; None if it stays float."""
        entry = formats.find(found.weight.name, node.name)
        if entry is not None:
            return entry.scheme
        sensitive = self.bits < 8 and found.weight.meta.get(weights.SENSITIVE)
        return dataclasses.replace(formats.default, bits=8, reduce_range=False) if sensitive else formats.default

    def _refuse(self, node: ir.Node, found: Linear) -> str:
        if self.keeps(found.weight.name, node.name):
            return "kept by option keep"
        if not found.refusal and found.tensor.size < self.minimum:
            return f"fewer than {self.minimum} values"
        return found.refusal

    def _job(self, node: ir.Node, found: Linear, scheme: Scheme) -> jobs.Job:
        """What is to be done for one weight."""
        job = jobs.Job(
            tensors.place(found.tensor),
            scheme,
            transposed=found.transposed,
            packed=None if found.transposed else 0,  # as they are stored, by rows
            importance=found.importance() if self.importance == "input" else None,
        )
        measured = found.statistics
        if measured is None or measured.products is None:
            return job
        damping = self.damping or damping_for(found.shape[0], measured.rows, random=measured.random)
        return dataclasses.replace(job, products=(measured.products,), solver=self.solver, damping=damping)

    def _store(
        self, model: ir.Model, node: ir.Node, found: Linear, scheme: Scheme, result: jobs.Quantized
    ) -> tuple[ir.Value, Site]:
        """Write one weight at the head of the graph that owns it."""
        weight, blocks, name = found.weight, result.blocks, found.weight.name or "weight"
        measured = found.statistics
        unknown = self.solver != "nearest" and (measured is None or measured.products is None)
        note = f"{scheme}, {blocks.bits_per_weight:.2f} bits per weight" + (", nearest: no XᵀX" if unknown else "")
        owner = weight.graph
        edit = Edit(owner[0] if owner is not None else node, name)
        value = weights.write(model, edit, name, blocks, found.tensor.dtype)
        return value, Site(name, (node.op_type,), note, result.error)
