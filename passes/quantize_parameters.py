"""Store the weights of convolutions and recurrent cells, and tables that are added, as 8-bit codes."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Outcome, Site, Stage
from bct_onnx.forms import runs
from bct_onnx.graph import lengths, logarithms, tensors, walk
from bct_onnx.graph.inventory import Weight
from bct_onnx.quant.runs import SHORTEST, coded, length_for
from bct_onnx.storing import CompressingPass, store_anew

WEIGHTS = {"Conv": (1,), "ConvTranspose": (1,), "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2), "Add": (0, 1)}
"""Inputs of standard operators that take what this pass stores."""

WORST_DB = 30.0
"""What a tensor keeps at least: 8 bits give about 45 dB, and much less only where a few values dwarf the rest."""


@dataclasses.dataclass(frozen=True)
class QuantizeParameters(CompressingPass):
    """Store what no matrix product and no table takes as 8-bit codes with a scale for each run of 32 values.

    Why:
        Convolutions and recurrent cells are most of many models that see or hear, positions a tenth of others: beside
        matrices of 4 bits the file is made of them. Eight bits cost less than 4 bits of the matrices do.

    Before/after:
        ``Conv(x, W)`` becomes ``Conv(x, Reshape(Mul(Cast(codes), scale)))``, which the runtime folds when it creates
        the session. A scale belongs to about 32 values of one output channel, in the order in which they lie.

    Declines:
        Tensors that 8 bits do not hold (below 30 dB); rows of fewer than 8 values; what other operators use too;
        filters of a spectrogram, of which a logarithm is taken; what only decides how long a value is (see
        `bct_onnx.graph.lengths`); and those named in ``keep``.

    Options:
        minimum: Tensors with fewer values stay as they are.
        keep: Name patterns of tensors that stay, joined by ``|``.

    Promise:
        Bounded: the error of each tensor is reported as SQNR.
    """

    name: ClassVar[str] = "quantize-parameters"
    stage: ClassVar[Stage] = Stage.HALVE
    promise: ClassVar[str] = "bounded"

    minimum: int = 1024
    keep: tuple[str, ...] = ()

    def apply(self, model: ir.Model) -> Applied:
        """Store every parameter that can be, of all graphs."""
        deciding = lengths.deciding(model)
        outcomes: list[Outcome] = []
        for graph in walk.graphs(model.graph):
            for value in list(graph.initializers.values()):
                tensor = value.const_value
                if tensor is None or tensor.size < self.minimum or not _is_meant(value, tensor):
                    continue
                if reason := self._refuse(value, deciding):
                    outcomes.append(Declined(value.name or "", reason, tensor.nbytes))
                else:
                    outcomes.append(_store(value, tensor))
        return Applied.of(model, outcomes)

    def float_bytes(self, weight: Weight) -> int:
        """Codes and scales of the weight of a convolution or recurrent cell."""
        if weight.kind not in ("convolution", "recurrence") or weight.count < self.minimum or self.keeps(weight.name):
            return weight.nbytes
        return min(weight.nbytes, weight.count + 4 * weight.count // SHORTEST)

    def _refuse(self, value: ir.Value, deciding: frozenset[ir.Node]) -> str:
        """Why a parameter stays float; empty where it is stored."""
        if self.keeps(value.name, *(node.name for node in value.consumers())):
            return "kept by option keep"
        if value.is_graph_output() or value.is_graph_input() or not all(itertools.starmap(_takes, value.uses())):
            return "it is used in another way too"
        if any(node in deciding for node in value.consumers()):
            return lengths.REASON
        if any(logarithms.is_before_logarithm(node) for node in value.consumers()):
            return "a logarithm is taken of what its filters find"
        return ""


def _takes(node: ir.Node, index: int) -> bool:
    return not node.domain and index in WEIGHTS.get(node.op_type, ())


def _is_meant(value: ir.Value, tensor: ir.TensorProtocol) -> bool:
    if tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16) or not any(itertools.starmap(_takes, value.uses())):
        return False
    return sum(size > 1 for size in tensor.shape.numpy()) > 1  # what is added to each channel alike is a bias


def _store(value: ir.Value, tensor: ir.TensorProtocol) -> Site | Declined:
    shape = tensor.shape.numpy()
    length = length_for(shape)
    if length < SHORTEST:
        return Declined(value.name or "", f"its rows have fewer than {SHORTEST} values", tensor.nbytes)
    coding = coded(tensors.array(tensor), length)
    if not coding.error.sqnr_db >= WORST_DB:
        return Declined(value.name or "", "8 bits do not hold its values", tensor.nbytes)
    name, write = value.name or "", functools.partial(runs.write, runs=coding, shape=shape, dtype=tensor.dtype)
    return Site(name, store_anew(value, write), f"8 bits, a scale for {length} values", coding.error)
