"""Bases of the passes that store tensors in fewer bytes."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterable
from typing import ClassVar, Literal

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Stage
from bct_onnx.errors import UsageError
from bct_onnx.graph import before, decisions, names, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.inventory import Weight
from bct_onnx.graph.neighbours import op_types
from bct_onnx.quant.formats import Formats
from bct_onnx.quant.scheme import Scheme
from bct_onnx.quant.solve import Solver
from bct_onnx.storable import Storable, allotted


class CompressingPass(Pass):
    """A pass that stores tensors in fewer bytes, but for small ones and those that the user names."""

    @property
    @abc.abstractmethod
    def minimum(self) -> int:
        """Tensors with fewer values stay as they are."""

    @property
    @abc.abstractmethod
    def keep(self) -> tuple[str, ...]:
        """Patterns of names of tensors, or of nodes that use them, that stay as they are."""

    def float_bytes(self, weight: Weight) -> int:
        """Bytes in which it stores a parameter that stays float, at most."""
        return weight.nbytes

    def keeps(self, *tensor_names: str | None) -> bool:
        """Whether the user wants what has one of these names to stay."""
        return names.any_fits(tensor_names, self.keep)


def store_anew(value: ir.Value, write: Callable[[Edit, str], ir.Value]) -> tuple[str, ...]:
    """Replace an initializer by what ``write`` makes of it at the beginning of its graph; the operators that use it.

    What is stored has its name: ``write`` is given that.
    """
    graph, tensor, name = value.graph, value.const_value, value.name or "parameter"
    assert isinstance(graph, ir.Graph) and tensor is not None  # it is an initializer
    users = tuple(dict.fromkeys(op_types(value.consumers())))
    del graph.initializers[name]
    value.name = None
    decoded = write(Edit(graph[0], name), name)
    decoded.type, decoded.shape = value.type, value.shape
    value.replace_all_uses_with(decoded)
    tensors.release(tensor)
    return users


@dataclasses.dataclass(frozen=True)
class StoringPass(CompressingPass):
    """A pass that stores tensors as codes of few bits, with the options that all such passes share.

    Attributes:
        bits: Bits per code: 2 to 6 or 8.
        block: Values along K that share a multiplier, or a block such as 64x64.
        search: How scales are chosen: mse or max.
        solver: How codes are chosen: see `bct_onnx.quant.solve`.
        damping: Share of the mean diagonal of XᵀX that is added to its diagonal; 0 chooses.
        reduce_range: Whether decoded int8 values stay within 64, exact on CPUs without VNNI too.
        minimum: Tensors with fewer values stay float.
        formats: Formats of single tensors, by patterns of names: see `bct_onnx.quant.formats`.
        keep: Patterns of names of what stays float.
    """

    stage: ClassVar[Stage] = Stage.STORE
    promise: ClassVar[str] = "bounded"

    bits: int = 4
    block: int | tuple[int, int] = 32
    search: Literal["mse", "max"] = "mse"
    solver: Solver = "nearest"
    damping: float = 0.0
    reduce_range: bool = True
    minimum: int = 1024
    formats: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.damping < 0:
            raise UsageError(f"damping={self.damping} is not allowed", fix="use 0 or more")

    def call(self, model: ir.Model) -> Applied:
        """Keep the model as it is where a pass further down asks for it, and run."""
        before.keep(model)
        return super().call(model)

    @property
    @abc.abstractmethod
    def scheme(self) -> Scheme:
        """The block format that the options say."""

    @abc.abstractmethod
    def storables(self, model: ir.Model) -> Iterable[Storable]:
        """The tensors of ``model`` that it is going to store, with the formats that its options say."""

    def formats_of(self, model: ir.Model, *, beside: bool) -> tuple[Formats, str]:
        """The formats of a model's tensors: those of the options, then, if wanted, what lies beside the tensors;
        and a note on the others."""
        entries = allotted(model.graph.initializers.values()) if beside else []
        default, note = decisions.scheme_for(model, self.scheme)
        return Formats((*self.formats, *entries), default), note

    def unused(self, formats: Formats, reason: str) -> list[Declined]:
        """The entries of the options that no tensor was for."""
        return [Declined(entry, reason) for entry in formats.unused if entry in self.formats]
