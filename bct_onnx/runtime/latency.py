"""Speed, measured so that other load on the machine hits all models alike: interleaved rounds, median and minimum."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from bct_onnx.runtime.session import run


@dataclass(frozen=True)
class Latency:
    """Time of one model per round, in milliseconds."""

    rounds_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """The typical time."""
        return statistics.median(self.rounds_ms)

    @property
    def min_ms(self) -> float:
        """The time least disturbed by other programs."""
        return min(self.rounds_ms)

    def speedup_over(self, baseline: Latency) -> Speedup:
        """How many times faster than the baseline; below 1 is slower.

        >>> Latency((1.0, 2.0, 3.0)).speedup_over(Latency((4.0, 4.0, 9.0)))
        Speedup(of_medians=2.0, of_minima=4.0)
        """
        return Speedup(baseline.median_ms / self.median_ms, baseline.min_ms / self.min_ms)

    def ratios_over(self, baseline: Latency) -> Ratios:
        """How many times faster than the baseline in each round: what slows a whole round down, slows both.

        >>> Latency((1.0, 2.0, 4.0)).ratios_over(Latency((2.0, 4.0, 6.0)))
        Ratios(median=2.0, low=1.75, high=2.0)
        """
        ratios = [theirs / ours for ours, theirs in zip(self.rounds_ms, baseline.rounds_ms, strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        return Ratios(median, low, high)


@dataclass(frozen=True)
class Speedup:
    """Times faster than a baseline, by the two summaries of a series of rounds."""

    of_medians: float
    of_minima: float


@dataclass(frozen=True)
class Ratios:
    """Times faster than a baseline round by round: the median and the quartiles around it."""

    median: float
    low: float
    high: float


def measure(
    sessions: Mapping[str, ort.InferenceSession],
    feeds: Mapping[str, np.ndarray[Any, Any]],
    *,
    rounds: int = 10,
    warmup: int = 2,
    seconds: float = math.inf,
) -> dict[str, Latency]:
    """Run every model once per round, each round starting with another model, and keep the times.

    Args:
        sessions: The models by name.
        feeds: One sample for all; each model takes the inputs it declares.
        rounds: Timed runs per model, at least 1.
        warmup: Runs per model before the first timed round.
        seconds: No further round starts once all that was run has taken so long; the first always does.

    Raises:
        TargetError: A model fails on these inputs.
    """
    names, begin = list(sessions), time.perf_counter()
    for name in names:
        for _ in range(warmup):
            run(sessions[name], feeds)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        if number and time.perf_counter() - begin > seconds:
            break
        for name in in_turn(names, number):
            start = time.perf_counter()
            run(sessions[name], feeds)
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: Latency(tuple(series)) for name, series in times.items()}


def in_turn(names: Sequence[str], number: int) -> list[str]:
    """The order of one round: each starts with another name.

    >>> in_turn("abc", 1)
    ['b', 'c', 'a']
    """
    first = number % len(names)
    return [*names[first:], *names[:first]]


@dataclass(frozen=True)
class CpuFeatures:
    """What decides how fast, and on older CPUs how exact, 8-bit matrix products are."""

    architecture: str
    model: str
    flags: tuple[str, ...] | None
    """Instruction sets of interest that are present; None where the system does not tell."""

    @property
    def int8(self) -> str:
        """One line for the user about this CPU's 8-bit integer arithmetic."""
        if self.flags is None:
            return "unknown (this system does not list CPU instruction sets)"
        if "amx" in self.flags:
            return "AMX and VNNI: int8 at full speed" if "vnni" in self.flags else "AMX: int8 at full speed"
        if {"vnni", "dotprod", "i8mm"} & set(self.flags):
            return f"{'VNNI' if 'vnni' in self.flags else 'dot product'} instructions: int8 at full speed"
        if "avx2" in self.flags:
            return "no VNNI: int8 gains less here, and u8 x s8 products saturate unless weights stay within 7 bits"
        return "no integer dot product instructions: int8 gains little here"


def cpu_features(cpuinfo: str | Path = "/proc/cpuinfo") -> CpuFeatures:
    """The instruction sets of this machine that matter for int8, read from the kernel's list."""
    architecture = platform.machine() or "unknown"
    try:
        lines = Path(cpuinfo).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return CpuFeatures(architecture, platform.processor() or "unknown", None)
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    listed = set(fields.get("flags", fields.get("Features", "")).split())
    known = {
        "avx2": {"avx2"},
        "avx512": {"avx512f"},
        "vnni": {"avx512_vnni", "avx_vnni"},
        "amx": {"amx_int8"},
        "dotprod": {"asimddp"},
        "i8mm": {"i8mm"},
    }
    flags = tuple(name for name, spellings in known.items() if listed & spellings)
    return CpuFeatures(architecture, fields.get("model name", "unknown"), flags if listed else None)
