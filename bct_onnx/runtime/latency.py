"""Speed, measured so that other load on the machine hits all models alike: interleaved rounds, median and minimum."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from bct_onnx.runtime.session import run

Feeds = Mapping[str, np.ndarray[Any, Any]]


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
class TotalLatency(Latency):
    """Time of several runs after each other, each of them timed in every round: all batches of a text.

    Its median and minimum are the sums of theirs: a disturbance meets one run of one round, not a whole round.

    >>> total = TotalLatency.of([Latency((1.0, 2.0)), Latency((5.0, 3.0))])
    >>> total.rounds_ms, total.median_ms, total.min_ms
    ((6.0, 5.0), 5.5, 4.0)
    """

    runs: tuple[Latency, ...]

    @classmethod
    def of(cls, runs: Sequence[Latency]) -> TotalLatency:
        """The sum of runs that were timed in the same rounds."""
        rounds = zip(*(run.rounds_ms for run in runs), strict=True)
        return cls(tuple(map(sum, rounds)), tuple(runs))

    @property
    def median_ms(self) -> float:
        """The typical time."""
        return sum(run.median_ms for run in self.runs)

    @property
    def min_ms(self) -> float:
        """The time least disturbed by other programs."""
        return sum(run.min_ms for run in self.runs)


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
    feeds: Feeds,
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
    times = defaultdict[str, list[float]](list)
    for number in range(rounds):
        if number and time.perf_counter() - begin > seconds:
            break
        for name in in_turn(names, number):
            start = time.perf_counter()
            run(sessions[name], feeds)
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: Latency(tuple(series)) for name, series in times.items()}


def measure_series(
    sessions: Mapping[str, ort.InferenceSession], series: Mapping[str, Sequence[Sequence[Feeds]]], *, rounds: int
) -> dict[str, TotalLatency]:
    """Run one sample after the other, each by every model in turn, and the whole series once per round.

    Args:
        sessions: The models by name.
        series: By the same names the samples, each as the runs in which the model takes it: one, or several where it
            cannot take the sample whole.
        rounds: Timed passes over all samples, at least 1. The first sample is run once before them.

    Raises:
        TargetError: A model fails on a sample.
    """
    names = list(sessions)
    for name in names:
        _run_all(sessions[name], series[name][0])
    count = len(series[names[0]])
    times = defaultdict[tuple[str, int], list[float]](list)
    for number in range(rounds):
        for sample in range(count):
            for name in in_turn(names, number + sample):
                start = time.perf_counter()
                _run_all(sessions[name], series[name][sample])
                times[name, sample].append((time.perf_counter() - start) * 1e3)
    totals = {}
    for name in names:
        totals[name] = TotalLatency.of([Latency(tuple(times[name, sample])) for sample in range(count)])
    return totals


def _run_all(opened: ort.InferenceSession, runs: Sequence[Feeds]) -> None:
    for feeds in runs:
        run(opened, feeds)


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
            if "vnni" in self.flags:
                return "AMX and VNNI: int8 at full speed"
            return "AMX: int8 at full speed"
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
