"""A model that is looked at while it runs: statistics of intermediate values, gathered in a stream.

Memory is that of one batch: its values are reduced to a few numbers per channel and dropped.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import helper

from bct_onnx.graph.names import names_of, without
from bct_onnx.graph.protobuf import expose
from bct_onnx.graph.save import serialize
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.session import Message, run, runnable, session
from bct_onnx.runtime.statistics import MASKED, ChannelStatistics, Scores


class Observer:
    """A copy of a model in ONNX Runtime, whose values are looked at while it runs.

    Args:
        model: The model as it is now.
        values: What to look at, in its main graph.
        whole: Names of values that count as one channel; they are reduced within ONNX Runtime and never handed out.
        products: Names of values whose XᵀX is wanted too.
        attentions: Names of what ``Attention`` operators of the main graph give, whose scores are wanted.
        only_sizes: Nothing is to be seen but the sizes; ONNX Runtime then does not hold all values at a time.

    Attributes:
        session: The running copy.
        found: The statistics by name, of all that was seen so far.
        scores: The scores of ``attentions``, likewise.

    Raises:
        TargetError: ONNX Runtime cannot load the model.
    """

    def __init__(
        self,
        model: ir.Model,
        values: Sequence[ir.Value],
        *,
        whole: Container[str] = (),
        products: Container[str] = (),
        attentions: Sequence[str] = (),
        only_sizes: bool = False,
    ) -> None:
        proto, pairs = serialize(runnable(model))
        self._products = products
        self._rows = names_of(without(values, whole))
        self._whole = [value.name or "" for value in values if value.name in whole]
        seen = [] if only_sizes else list(self._rows)
        for name in self._whole:
            proto.graph.node.extend(_reduced(name))
            seen += _figures(name)
        for name in self._rows:
            proto.graph.node.append(helper.make_node("Size", [name], [_size(name)]))
            seen.append(_size(name))
        self.scores = {name: Scores() for name in attentions}
        for node in list(proto.graph.node):
            if node.output and node.output[0] in self.scores:
                proto.graph.node.extend(_row_maxima(node))
                seen.append(_maxima(node.output[0]))
        expose(proto.graph, seen)
        self.session = session(Message(proto, pairs))
        self._known_sizes: dict[tuple[Any, ...], dict[str, int]] = {}
        self.found: dict[str, ChannelStatistics] = {}

    def sizes(self, feeds: Feeds) -> dict[str, int]:
        """Bytes of each value that is looked at as float32, by name; taken to be the same for all feeds of the same
        shapes: one run tells.

        Raises:
            TargetError: ONNX Runtime cannot run the model.
        """
        shapes = tuple((name, array.shape) for name, array in feeds.items())
        if shapes not in self._known_sizes:
            self._known_sizes[shapes] = self._counted(feeds)
        return self._known_sizes[shapes]

    def see(self, feeds: Feeds, *, at_once: int | None = None, handed_on: Sequence[str] = ()) -> Feeds:
        """Run the model on one batch and add what goes through it.

        Args:
            feeds: The batch.
            at_once: Bytes of values that one run hands out, at least one value; the model runs as often as that takes.
                None for one run.
            handed_on: Names of outputs of the model.

        Returns:
            The outputs of these names.

        Raises:
            TargetError: ONNX Runtime cannot run the model.
        """
        parts = [self._rows] if at_once is None else _parted(self._rows, self.sizes(feeds), at_once)
        for part in parts[1:]:
            self._see_rows(part, iter(run(self.session, feeds, part)))
        first = parts[0] if parts else []
        names = list(first)
        for name in self._whole:
            names += _figures(name)
        names += list(map(_maxima, self.scores))
        names += handed_on
        arrays = iter(run(self.session, feeds, names))
        self._see_rows(first, arrays)
        for name in self._whole:
            low, high, squares, size = (next(arrays).astype(np.float64).reshape(1) for _ in range(4))
            self._add(name, ChannelStatistics(low, high, squares, int(size[0])))
        for name in self.scores:
            rows = next(arrays)
            rows = rows[np.isfinite(rows) & (rows > MASKED)]
            if rows.size:
                self.scores[name] += Scores(float(np.quantile(rows, 0.005)), float(rows.max()))
        return dict(zip(handed_on, arrays, strict=True))

    def _counted(self, feeds: Feeds) -> dict[str, int]:
        """Bytes of each value when the model runs on ``feeds``."""
        sizes = {name: _size(name) for name in self._rows} | {name: _figures(name)[-1] for name in self._whole}
        if not sizes:
            return {}
        counts = run(self.session, feeds, list(sizes.values()))
        return {name: 4 * int(count) for name, count in zip(sizes, counts, strict=True)}

    def _see_rows(self, names: Sequence[str], arrays: Iterator[npt.NDArray[Any]]) -> None:
        for name in names:
            self._add(name, ChannelStatistics.of(next(arrays), products=name in self._products))

    def _add(self, name: str, statistics: ChannelStatistics) -> None:
        self.found[name] = self.found[name] + statistics if name in self.found else statistics


def _parted(names: Sequence[str], sizes: Mapping[str, int], at_once: int) -> list[list[str]]:
    """Names in their order, in parts of at most so many bytes together."""
    parts: list[list[str]] = []
    room = 0
    for name in names:
        if not parts or sizes[name] > room:
            parts.append([])
            room = at_once
        parts[-1].append(name)
        room -= sizes[name]
    return parts


def _size(name: str) -> str:
    return f"{name}.bct_onnx.elements"


def _maxima(name: str) -> str:
    return f"{name}.bct_onnx.row_maxima"


def _row_maxima(attention: onnx.NodeProto) -> Iterable[onnx.NodeProto]:
    """Let an ``Attention`` give its masked scores too, and take the maximum of each row of them."""
    name = attention.output[0]
    scores = f"{name}.bct_onnx.scores"
    attention.output.extend([""] * (3 - len(attention.output)) + [scores])
    kept = [each for each in attention.attribute if each.name != "qk_matmul_output_mode"]
    del attention.attribute[:]
    attention.attribute.extend([*kept, helper.make_attribute("qk_matmul_output_mode", 2)])
    wide, axis = f"{scores}.wide", f"{scores}.axis"
    yield helper.make_node("Cast", [scores], [wide], to=onnx.TensorProto.FLOAT)
    yield helper.make_node("Constant", [], [axis], value_ints=[-1])
    yield helper.make_node("ReduceMax", [wide, axis], [_maxima(name)], keepdims=0)


def _figures(name: str) -> tuple[str, ...]:
    return tuple(f"{name}.bct_onnx.{figure}" for figure in ("minimum", "maximum", "sum_squares", "size"))


def _reduced(name: str) -> Iterable[onnx.NodeProto]:
    """Smallest, largest, sum of squares and number of elements of a tensor; half precision is widened first."""
    *reductions, size = _figures(name)
    wide = f"{name}.bct_onnx.wide"
    yield helper.make_node("Cast", [name], [wide], to=onnx.TensorProto.FLOAT)
    for op_type, output in zip(("ReduceMin", "ReduceMax", "ReduceSumSquare"), reductions, strict=True):
        yield helper.make_node(op_type, [wide], [output], keepdims=0)
    yield helper.make_node("Size", [name], [size])
