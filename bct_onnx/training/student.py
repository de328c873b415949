"""The model as it is stored, run by torch from its stored tensors to its outputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from bct_onnx.forms import packed
from bct_onnx.forms.mixed_table import MixedTable
from bct_onnx.forms.tables import StoredTable
from bct_onnx.forms.weights import StoredWeight
from bct_onnx.graph import tensors
from bct_onnx.graph.names import entries
from bct_onnx.graph.neighbours import inputs_of
from bct_onnx.graph.operators import identifier
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.partial import Partial
from bct_onnx.training.learned import Learned, Numbers
from bct_onnx.training.operators import OPERATORS
from bct_onnx.training.region import Lookup, Region

Tensor = Any

Used = Mapping[str, npt.NDArray[np.intp]]
"""The rows of each table that are looked up, by the name of its codes."""

Decoded = Mapping[str, Tensor]
"""Stored tensors as floats, by the name of their codes."""


class Student:
    """What is learned of a model, and what that makes of a batch.

    Args:
        model: The model as it is stored.
        region: The part of it that is trained.
        used: The rows of tables that any batch looks up; others are not learned.

    Attributes:
        learned: Stored tensors by the name of their codes.
        floats: Norms and biases that are learned, by the name of the initializer.

    Raises:
        TargetError: ONNX Runtime cannot load what is outside of the region.
    """

    def __init__(self, model: ir.Model, region: Region, used: Used) -> None:
        self._graph, self._region = model.graph, region
        self._given = Partial(model, region.given)
        self.learned: dict[str, Learned] = {}
        self.floats: dict[str, Tensor] = {}
        self._constants: dict[str, Tensor] = {}
        for weight in region.weights.values():
            if _codes(weight) not in self.learned:
                self.learned[_codes(weight)] = Learned(Numbers.of_blocks(weight.blocks()))
        self._tied = frozenset(self.learned)
        self._rows = {name: self._places(lookup, used) for name, lookup in region.lookups.items()}
        self._read_constants(region.nodes)

    def parameters(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """What is learned: latent codes, logarithms of scales, and floats."""
        every = self.learned.values()
        scales = [learned.log_scale for learned in every if learned.log_scale.requires_grad]
        return [learned.codes for learned in every], scales, list(self.floats.values())

    def decoded(self) -> Decoded:
        """The stored tensors as they will be read, for any number of batches."""
        return {codes: learned.weight() for codes, learned in self.learned.items()}

    def __call__(self, feeds: Feeds, names: Iterable[str], decoded: Decoded) -> dict[str, Tensor]:
        """Some values of the region, by name, for a batch."""
        given = {**feeds, **self._given(feeds)}
        known: dict[str, Tensor] = {name: torch.from_numpy(_plain(array)) for name, array in given.items()}
        known |= self._constants
        known |= self.floats
        for name, weight in self._region.weights.items():
            known[name] = decoded[_codes(weight)]
        for name, rows in self._rows.items():
            lookup = self._region.lookups[name]
            indices = known[lookup.indices.name or ""].long() % lookup.table.count
            known[name] = decoded[lookup.codes].T[rows[indices]]
        for node in self._region.nodes:
            inputs = [None if value is None else known[value.name or ""] for value in node.inputs]
            result = OPERATORS[identifier(node)](node, inputs)
            outputs = result if isinstance(result, tuple | list) else (result,)
            for value, output in zip(node.outputs, outputs, strict=False):
                known[value.name or ""] = output
        return entries(known, names)

    def write(self) -> None:
        """Put what was learned into the constants of the graph."""
        for weight in self._region.weights.values():
            weight.rewrite(*self.learned[_codes(weight)].stored())
        for lookup in self._region.lookups.values():
            lookup.table.rewrite(*self.learned[lookup.codes].stored())
        for name, value in self.floats.items():
            initializer = self._graph.initializers[name]
            assert initializer.dtype is not None
            tensors.refill(initializer, value.detach().numpy().astype(initializer.dtype.numpy()))

    def state(self) -> list[Tensor]:
        """A copy of all that is learned."""
        return [value.detach().clone() for value in self._learned()]

    def restore(self, state: Sequence[Tensor]) -> None:
        """Go back to a copy."""
        with torch.no_grad():
            for value, kept in zip(self._learned(), state, strict=True):
                value.copy_(kept)

    def _learned(self) -> Iterator[Tensor]:
        return itertools.chain.from_iterable(self.parameters())

    def _places(self, lookup: Lookup, used: Used) -> Tensor:
        """Where each row of a table lies among those that are learned, [V]."""
        count = lookup.table.count
        if lookup.codes in self._tied:
            return torch.arange(count)
        columns = used[lookup.codes]
        if lookup.codes not in self.learned:
            self.learned[lookup.codes] = Learned(_numbers(lookup.table), columns)
        places = torch.zeros(count, dtype=torch.long)
        places[torch.from_numpy(columns)] = torch.arange(len(columns))
        return places

    def _read_constants(self, nodes: Sequence[ir.Node]) -> None:
        """Read the initializers that nodes of the region use; vectors of floats are learned."""
        values = list(inputs_of(nodes))
        values += [lookup.indices for lookup in self._region.lookups.values()]
        for value in values:
            if value.producer() is not None or value.const_value is None or value.is_graph_input():
                continue
            array = torch.from_numpy(_plain(tensors.array(value)))
            if value.dtype in tensors.FLOATS and array.ndim == 1 and len(array) > 1:
                self.floats.setdefault(value.name or "", torch.nn.Parameter(array))
            else:
                self._constants[value.name or ""] = array


def _plain(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array of a type that torch takes: floats as float32, integers as they are."""
    if array.dtype.kind in ("f", "V"):  # V: bfloat16, which is not numpy's own
        return array.astype(np.float32)
    return array.copy()  # in memory of its own, as torch may write to it; a scalar stays one


def _codes(weight: StoredWeight) -> str:
    """Name of the constant that holds the codes of a weight."""
    return packed.constant(weight.codes).name or ""


def _numbers(table: StoredTable | MixedTable) -> Numbers:
    """What a table is made of, its rows as columns."""
    if isinstance(table, MixedTable):
        return Numbers.of_rows(table.rows(), table.length)
    return Numbers.of_blocks(table.blocks())
