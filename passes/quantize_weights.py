"""Quantize the weights of MatMul and Gemm in blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar, Literal

import onnx_ir as ir

from bct_onnx import parallel
from bct_onnx.base import Applied, Declined, Site
from bct_onnx.errors import UsageError
from bct_onnx.forms import weights
from bct_onnx.forms.linear import Linear
from bct_onnx.graph import lengths, logarithms, tensors
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
        most an eighth of all weights, that only decides how long a value is (see `bct_onnx.graph.lengths`), and
        those that sum energies up whose logarithm is taken, as filters of a log-mel spectrum do, unless an entry of
        formats names them.

    Options:
        bits: Bits per code: 2 to 6 or 8. Where less takes the answers away, weights get all of the range of 8 unless
            an entry of formats names them: those of convolutions of images, and of models below 262,144 values that
            hand out decisions.
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
        if any(entry.rows is not None or entry.widths for entry in formats.entries):
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
        formats, note = self.formats_of(model, beside=True)
        declined: dict[str, Declined] = {}
        layers: dict[tuple[int, bool], list[Linear]] = {}  # those that share a weight together
        for linear, reason in self._layers(model, formats):
            name = linear.weight.name or ""
            if reason:
                declined[name] = Declined(name, reason, linear.tensor.nbytes)
            else:
                layers.setdefault(linear.key, []).append(linear)
        groups = [(group, self._scheme(formats, group[0])) for group in layers.values()]
        work = (self._job(group[0], scheme) for group, scheme in groups)
        results = parallel.in_parts(jobs.run, work, jobs.split, jobs.joined)
        sites: list[Site] = []
        for (group, scheme), result in zip(groups, results, strict=True):
            weight, site = self._store(model, group[0], scheme, result)
            sites.append(site)
            for linear in group:
                edit = Edit(linear.node)
                linear.replace(edit, edit.op("MatMul", linear.node.inputs[0], weight))
        unused = self.unused(formats, "no weight that is quantized has such a name")
        return Applied(model, sites, [*declined.values(), *unused], note=note if sites else "")

    def storables(self, model: ir.Model) -> Iterator[Storable]:
        """Every weight that can be quantized."""
        formats, _ = self.formats_of(model, beside=False)
        done: set[tuple[int, bool]] = set()
        for linear, reason in self._layers(model, formats):
            if reason or linear.key in done:
                continue
            done.add(linear.key)
            entry = formats.find(linear.weight.name, linear.node.name)
            scheme = formats.default if entry is None or entry.scheme is None else entry.scheme
            is_free = entry is None and linear.weight.graph is model.graph
            yield Storable(linear.weight, self._job(linear, scheme), linear.statistics, is_free=is_free)

    def _layers(self, model: ir.Model, formats: Formats) -> Iterator[tuple[Linear, str]]:
        """Every linear layer, and why its weight stays float; empty where it is stored."""
        deciding = lengths.deciding(model)
        for node in model.graph.all_nodes():
            linear = Linear.of(node)
            if linear is None:
                continue
            reason, entry = self._refuse(linear), formats.find(linear.weight.name, node.name)
            if entry is None and node in deciding:
                reason = reason or lengths.REASON
            elif entry is None and logarithms.becomes_logarithm(node.outputs[0]):
                reason = reason or logarithms.REASON
            elif entry is not None and entry.scheme is None:
                reason = reason or "kept by option formats"
            yield linear, reason

    def _scheme(self, formats: Formats, linear: Linear) -> Scheme:
        entry = formats.find(linear.weight.name, linear.node.name)
        if entry is not None and entry.scheme is not None:
            return entry.scheme
        if linear.weight.meta.get(weights.SENSITIVE):
            return dataclasses.replace(formats.default, bits=8, reduce_range=False)
        return formats.default

    def _refuse(self, linear: Linear) -> str:
        if self.keeps(linear.weight.name, linear.node.name):
            return "kept by option keep"
        if not linear.refusal and linear.tensor.size < self.minimum:
            return f"fewer than {self.minimum} values"
        return linear.refusal

    def _job(self, linear: Linear, scheme: Scheme) -> jobs.Job:
        """What is to be done for one weight."""
        job = jobs.Job(
            tensors.place(linear.tensor),
            scheme,
            transposed=linear.transposed,
            packed=None if linear.transposed else 0,  # as they are stored, by rows
            importance=linear.importance() if self.importance == "input" else None,
        )
        measured = linear.statistics
        if measured is None or measured.moments is None:
            return job
        damping = self.damping or damping_for(linear.shape[0], measured.rows, random=measured.random)
        return dataclasses.replace(job, moments=(measured.moments,), solver=self.solver, damping=damping)

    def _store(self, model: ir.Model, linear: Linear, scheme: Scheme, result: jobs.Quantized) -> tuple[ir.Value, Site]:
        """Write one weight at the head of the graph that owns it."""
        name, owner, measured = linear.weight.name or "weight", linear.weight.graph, linear.statistics
        note = f"{scheme}, {result.blocks.bits_per_weight:.2f} bits per weight"
        if self.solver != "nearest" and (measured is None or measured.moments is None):
            note += ", nearest: no XᵀX"
        edit = Edit(linear.node if owner is None else owner[0], name)
        weight = weights.write(model, edit, name, result.blocks, linear.tensor.dtype)
        return weight, Site(name, (linear.node.op_type,), note, result.error)
