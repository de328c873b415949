"""Where the time goes: milliseconds and node counts per operator of the graph ONNX Runtime really executes."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bct_onnx.runtime.session import Model, Optimize, run, session


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

    Times are means over `runs`; one run before them is left out.

    Raises:
        TargetError: The model does not load or run.
    """
    with tempfile.TemporaryDirectory(prefix="bct-profile-") as folder:
        target = session(model, threads=threads, optimize=optimize, profile=Path(folder) / "profile")
        for _ in range(runs + 1):
            run(target, feeds)
        events = json.loads(Path(target.end_profiling()).read_text(encoding="utf-8"))
    return _summary(events, runs)


def _summary(events: list[dict[str, Any]], runs: int) -> tuple[OperatorTime, ...]:
    model_runs = sorted(e["ts"] for e in events if e.get("name") == "model_run")
    warm = model_runs[1]
    micros: dict[str, float] = defaultdict(float)
    nodes: dict[str, set[str]] = defaultdict(set)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= warm:
            op_type = event["args"]["op_name"]
            micros[op_type] += event["dur"]
            nodes[op_type].add(f"{event['args'].get('node_index', '')} {event['name']}")
    times = [OperatorTime(op, len(nodes[op]), micros[op] / runs / 1e3) for op in micros]
    return tuple(sorted(times, key=lambda t: (-t.ms, t.op_type)))
