"""Which part of a graph is trained: what lies between its stored tensors and its outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Container

import onnx_ir as ir

from bct_onnx.forms import mixed_table, packed, tables, weights
from bct_onnx.forms.mixed_table import MixedTable
from bct_onnx.forms.tables import StoredTable
from bct_onnx.forms.weights import StoredWeight
from bct_onnx.graph import tensors
from bct_onnx.graph.names import names_of
from bct_onnx.graph.neighbours import inputs_of, of_types, producers
from bct_onnx.graph.operators import identifier

NORMS = ("LayerNormalization", "RMSNormalization")
"""Operators whose outputs are the hidden states of a transformer."""


@dataclasses.dataclass(frozen=True)
class Lookup:
    """Rows of a stored table that a node looks up.

    Attributes:
        table: The table.
        indices: Which rows.
    """

    table: StoredTable | MixedTable
    indices: ir.Value

    @property
    def codes(self) -> str:
        """Name of the constant that stands for the table; a tied output layer shares it."""
        if isinstance(self.table, MixedTable):
            return self.table.places.name or ""
        return packed.constant(self.table.codes).name or ""


@dataclasses.dataclass(frozen=True)
class Region:
    """The nodes between the stored tensors of a graph and its outputs.

    Attributes:
        nodes: In the order in which they run, without those that decode.
        weights: Stored weights that can be learned, by the name of the value [K, N].
        lookups: Lookups in stored tables, by the name of their rows.
        given: Names of values that nodes outside make and nodes inside read: masks, positions, sizes, and what is
            stored in a way that is not learned.
        outputs: Names of the float outputs of the model that depend on what is learned.
        logits: Those of them that a linear layer gives.
        hidden: Names of the outputs of normalizations.
    """

    nodes: tuple[ir.Node, ...]
    weights: dict[str, StoredWeight]
    lookups: dict[str, Lookup]
    given: tuple[str, ...]
    outputs: tuple[str, ...]
    logits: tuple[str, ...]
    hidden: tuple[str, ...]

    @classmethod
    def of(cls, model: ir.Model) -> Region:
        """The region of a model whose weights and tables are stored."""
        walk = _Walk()
        for node in model.graph:
            walk.visit(node)
        inside = walk.inside
        outputs = [value for value in model.graph.outputs if value.name in inside and value.dtype in tensors.FLOATS]
        return cls(
            tuple(walk.nodes),
            walk.weights,
            walk.lookups,
            tuple(walk.given),
            tuple(map(_name, outputs)),
            tuple(map(_name, filter(_is_linear, outputs))),
            tuple(_name(node.outputs[0]) for node in of_types(walk.nodes, *NORMS)),
        )

    def refusal(self, known: Container[str]) -> str:
        """Why it cannot be trained; empty if it can.

        Args:
            known: Operators that can be trained through, as `bct_onnx.base.identifier` writes them.
        """
        if not self.outputs:
            return "nothing that is stored in less than 8 bits, with a scale per column, leads to an output"
        for node in self.nodes:
            if identifier(node) not in known:
                return f"{identifier(node)} cannot be trained through ('{node.name}')"
        return ""


class _Walk:
    """What is found on the way from the first node to the last."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.weights: dict[str, StoredWeight] = {}
        self.lookups: dict[str, Lookup] = {}
        self.given: dict[str, None] = {}
        self.inside: set[str] = set()

    def visit(self, node: ir.Node) -> None:
        """Look at a node, whose inputs were made by those before."""
        table = mixed_table.read(node) or tables.read(node)
        if table is not None and not (isinstance(table, StoredTable) and table.bits == 8):
            indices = node.inputs[-1]
            assert indices is not None
            self.lookups[_name(node.outputs[0])] = Lookup(table, indices)
            self.inside.add(_name(node.outputs[0]))
            self._enters(indices)
            return
        if node.op_type == "Shape":
            return  # sizes do not depend on what weights are
        for value in node.inputs:
            weight = weights.read(value)
            if weight is not None and weight.bits < 8 and node.op_type in ("MatMul", "Gemm"):
                self.weights[_name(value)] = weight
                self.inside.add(_name(value))
        if self.inside.isdisjoint(names_of(inputs_of([node]))):
            return
        self.nodes.append(node)
        self.inside.update(map(_name, node.outputs))
        for value in node.inputs:
            self._enters(value)

    def _enters(self, value: ir.Value | None) -> None:
        """Note a value that a node inside reads, where one outside makes it."""
        if value is not None and value.producer() is not None and value.name not in self.inside:
            self.given[_name(value)] = None


def _is_linear(value: ir.Value) -> bool:
    """Whether a linear layer gives an output, with a bias or without."""
    node = value.producer()
    if node is not None and node.op_type in ("Cast", "Squeeze", "Add", "Identity"):
        makers = producers(node.inputs)
        node = makers[0] if len(makers) == 1 else None
    return node is not None and node.op_type in ("MatMul", "Gemm")


def _name(value: ir.Value | None) -> str:
    if value is None:
        return ""
    return value.name or ""
