"""Replace nodes by others: the one way every pass edits a graph.

edit = Edit(node)                          # new nodes go where `node` stands
y = edit.op("Gelu", x, approximate="tanh")
edit.replace(node.outputs[0], y)           # users of the old value get the new one, dead nodes go
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from bct_onnx.graph import provenance, tensors
from bct_onnx.graph.neighbours import is_read, producers, provided


class Edit:
    """New nodes built in front of an existing one, or behind it.

    Args:
        anchor: The node in front of which the new ones are inserted; every value used by them must be
            available there.
        label: Stem for the names of new nodes; the anchor's name by default.
        after: Insert behind the anchor instead.
    """

    def __init__(self, anchor: ir.Node, label: str = "", *, after: bool = False) -> None:
        if anchor.graph is None:
            raise ValueError(f"node {anchor.name!r} belongs to no graph")
        self.anchor = anchor
        self.graph = anchor.graph
        self.label = label or anchor.name or anchor.op_type
        self.after = after
        self.made: list[ir.Node] = []

    def op(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        domain: str = "",
        outputs: int = 1,
        name: str = "",
        **attributes: Any,
    ) -> ir.Value:
        """Add one node and return its first output. ``name`` is appended to the label."""
        node = ir.node(
            op_type,
            inputs,
            attributes or None,
            domain=domain,
            num_outputs=outputs,
            name=f"{self.label}/{name or op_type}",
        )
        if self.after:
            self.graph.insert_after(self.made[-1] if self.made else self.anchor, node)
        else:
            self.graph.insert_before(self.anchor, node)
        self.made.append(node)
        return node.outputs[0]

    def constant(
        self, name: str, value: np.ndarray[Any, Any] | ir.TensorProtocol, dtype: ir.DataType | None = None
    ) -> ir.Value:
        """Register ``value`` as an initializer of the node's graph under a fresh name starting with ``name``."""
        return tensors.constant(self.graph, name, value, dtype)

    def scalar(self, name: str, value: float | int, dtype: ir.DataType) -> ir.Value:
        """A rank-0 constant."""
        return self.constant(name, np.array(value, dtype=dtype.numpy()))

    def shape(self, name: str, dims: Sequence[int]) -> ir.Value:
        """A 1-D int64 constant, as Reshape and Slice take them."""
        return self.constant(name, np.array(dims, dtype=np.int64))

    def replace(self, old: ir.Value, new: ir.Value, also: Sequence[ir.Node] = ()) -> None:
        """Give every use of ``old`` to ``new``, keep its name and type, and drop the nodes that became dead.

        Graph outputs keep their names. ``also`` names further nodes that the new ones stand for.
        """
        dropped = provided((old.producer(), *also))
        provenance.replaced(self.made, dropped)
        if new.producer() is not None and new.producer() in self.made:
            new.type, new.shape = old.type or new.type, new.shape if old.shape is None else old.shape
            for key, kept in old.meta.items():  # what is known of the old value holds for the new one
                new.meta.setdefault(key, kept)
            name, old.name = old.name, None
            new.name = name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        drop_dead(dropped)


def take_place(old: ir.Value, new: ir.Value, suffix: str) -> None:
    """Let ``new`` have the name of ``old``, which gets the suffix, and be the output of the graph if that is one."""
    graph = old.graph
    assert graph is not None
    for index, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[index] = new
    new.name, old.name = old.name, f"{old.name}.{suffix}"


def drop_dead(nodes: Sequence[ir.Node]) -> None:
    """Remove those of ``nodes`` whose outputs nobody uses, and then what only they had used, upwards."""
    queue = list(nodes)
    while queue:
        node = queue.pop()
        if node.graph is None or any(map(is_read, node.outputs)):
            continue
        queue += producers(node.inputs)
        node.graph.remove(node, safe=True)
