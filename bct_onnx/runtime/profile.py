"""Where the time goes: milliseconds and node counts per operator of the graph ONNX Runtime really executes."""

from __future__ import annotations

import bisect
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bct_onnx.graph import operators
from bct_onnx.graph.atomic import scratch
from bct_onnx.runtime.session import Model, Optimize, run, session

_KERNEL = "_kernel_time"


@dataclass(frozen=True)
class Node:
    """One node that ONNX Runtime has run; the number tells namesakes apart."""

    op_type: str
    name: str
    number: str


@dataclass(frozen=True)
class OperatorTime:
    """All nodes of one operator: how many ran, and their time in one run of the model."""

    op_type: str
    nodes: int
    ms: float


def profile(
    model: Model,
    feeds: Mapping[str, np.ndarray[Any, Any]],
    *,
    runs: int = 5,
    threads: int = 1,
    optimize: Optimize = "all",
) -> tuple[OperatorTime, ...]:
    """Per operator after ONNX Runtime's own fusions, the most expensive first.

    Times are sums over nodes of their medians over `runs`; one run before them is left out.

    Raises:
        TargetError: The model does not load or run.
    """
    typical = node_times(model, feeds, runs=runs, threads=threads, optimize=optimize)
    series: dict[str, list[float]] = {}
    for node, ms in typical.items():
        series.setdefault(node.op_type, []).append(ms)
    times = (OperatorTime(op_type, len(each), sum(each)) for op_type, each in series.items())
    return tuple(sorted(times, key=lambda t: (-t.ms, t.op_type)))


def node_times(
    model: Model,
    feeds: Mapping[str, np.ndarray[Any, Any]],
    *,
    runs: int = 5,
    threads: int = 1,
    optimize: Optimize = "all",
    of: Callable[[list[float]], float] = statistics.median,
) -> dict[Node, float]:
    """Per node after ONNX Runtime's own fusions: what `of` makes of its milliseconds in `runs`; one before them is left
    out.

    Raises:
        TargetError: The model does not load or run.
    """
    with scratch("profile") as folder:
        target = session(model, threads=threads, optimize=optimize, profile=folder / "profile")
        for _ in range(runs + 1):
            run(target, feeds)
        events = json.loads(Path(target.end_profiling()).read_text(encoding="utf-8"))
    return {node: of(series) / 1e3 for node, series in _micros(events, runs).items()}


INT8_PRODUCTS = frozenset(name.rpartition("::")[2] for name in operators.named("integer product", "few-bit product"))
"""Operators that multiply 8-bit activations by stored weights."""


@dataclass(frozen=True)
class Budget:
    """What is left to win: the time of one run, and of its 8-bit products with weights alone, in milliseconds."""

    total_ms: float
    products_ms: float

    @property
    def share(self) -> float:
        """Part of the time that goes into these products."""
        if self.total_ms:
            return self.products_ms / self.total_ms
        return 0.0

    @property
    def distance(self) -> float | None:
        """Times as long as if they were all there is; None where there are none."""
        if self.products_ms:
            return self.total_ms / self.products_ms
        return None


def budget(operators: Iterable[OperatorTime]) -> Budget:
    """The budget of a profile.

    >>> budgeted = budget([OperatorTime("QGemm", 4, 3.0), OperatorTime("Add", 2, 1.5)])
    >>> budgeted.share, budgeted.distance
    (0.6666666666666666, 1.5)
    """
    listed = list(operators)
    return Budget(sum(row.ms for row in listed), sum(row.ms for row in listed if row.op_type in INT8_PRODUCTS))


CONTAINERS = operators.named("control")
"""Their time is that of the nodes within, which are counted themselves."""


def _micros(events: list[dict[str, Any]], runs: int) -> dict[Node, list[float]]:
    starts = sorted(e["ts"] for e in events if e.get("name") == "model_run")
    micros: dict[Node, list[float]] = defaultdict(lambda: [0.0] * runs)
    for event in events:
        number = bisect.bisect_right(starts, event.get("ts", 0)) - 2  # the first run is left out
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith(_KERNEL) and number >= 0:
            node = Node(event["args"]["op_name"], name.removesuffix(_KERNEL), event["args"].get("node_index", ""))
            if node.op_type not in CONTAINERS:
                micros[node][number] += event["dur"]
    return micros
