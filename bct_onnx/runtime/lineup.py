"""Models side by side for speed, size and memory, other tools' results among them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnxruntime as ort

from bct_onnx.errors import UsageError
from bct_onnx.graph.load import load, size
from bct_onnx.runtime import profile
from bct_onnx.runtime.decoding import measure_decoding
from bct_onnx.runtime.feeds import Feeds, load_feeds
from bct_onnx.runtime.inputs import inputs_of
from bct_onnx.runtime.int8_speed import int8_speed
from bct_onnx.runtime.latency import Latency, cpu_features, measure, measure_series
from bct_onnx.runtime.memory import is_measurable, measure_memory
from bct_onnx.runtime.openvino import OpenVinoSession
from bct_onnx.runtime.session import session
from bct_onnx.runtime.understanding import Sampler
from bct_onnx.study.optimizers import OPTIMIZERS
from bct_onnx.study.peers import TOOLS, make
from bct_onnx.targets import settings
from bct_onnx.tasks.texts import TextBatches

Shape = tuple[int, int]
"""Rows and tokens per row."""


class Lineup:
    """The models of one comparison, loaded, with inputs that fit all of them; the first is the baseline.

    Args:
        models: ONNX files.
        shapes: Rows and tokens of the runs that are timed.
        threads: Within an operator, one number after the other; 0 leaves it to ONNX Runtime.
        providers: Of ONNX Runtime, the first choice first.
        inputs: A file of inputs by name, instead of made-up ones of these shapes.
        texts: Texts in batches, instead of made-up inputs.
        elsewhere: Time them in OpenVINO, which has to be installed, instead of ONNX Runtime.
    """

    def __init__(
        self,
        models: Sequence[Path],
        shapes: Sequence[Shape],
        *,
        threads: Sequence[int] = (1,),
        providers: Sequence[str] = ("CPUExecutionProvider",),
        inputs: Path | None = None,
        texts: TextBatches | None = None,
        elsewhere: bool = False,
    ) -> None:
        self._threads, self._shapes, self._first, self._texts = tuple(threads), shapes, models[0], texts
        self._providers, self._elsewhere = list(providers), elsewhere
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._paths: dict[str, Path] = {}
        self._settings: dict[str, Mapping[str, str]] = {}
        self._rows: dict[str, dict[str, Any]] = {}
        self._sampler: Sampler | None = None
        for model in dict.fromkeys(models):
            self._add(str(model), model)
        self._given = None if inputs is None else load_feeds(inputs, self._sessions[str(models[0])])

    def add_tool(self, name: str, folder: Path) -> None:
        """Add another tool's result from the first model, or its error.

        Raises:
            UsageError: The tool is not known.
        """
        known = TOOLS | OPTIMIZERS
        if name not in known:
            raise UsageError(f"unknown tool '{name}'", where="--against", fix=f"use {' or '.join(known)}")
        result = make(known[name], self._first, folder, self._sample(str(self._first)))
        if result.file is None:
            self._rows[name] = {"model": name, "error": result.error}
        else:
            self._add(f"{name} ({result.text})", result.file)

    def measure(self, rounds: int, tokens: int | None = None) -> dict[str, Any]:
        """All times, in the form of the JSON output.

        Args:
            rounds: Timed runs per model, interleaved.
            tokens: Of decoders with a cache: single tokens after the prompt, which has the shape.
        """
        for number, threads in enumerate(self._threads):
            if number:
                for label, path in self._paths.items():
                    self._sessions[label] = self._open(path, threads, self._settings[label])
            if self._texts is not None:
                self._measure_texts(self._texts, threads, rounds)
                continue
            for shape in self._shapes:
                if tokens is None:
                    self._measure_runs(shape, threads, rounds)
                else:
                    self._measure_decoding(shape, tokens, threads, rounds)
        cpu, speed = cpu_features(), int8_speed()
        about: dict[str, Any] = {
            "architecture": cpu.architecture,
            "model": cpu.model,
            "flags": cpu.flags,
            "int8": speed.summary(cpu),
        }
        about |= {"kernels": speed.kernels, "gops": asdict(speed)}
        result = {"cpu": about, "threads": list(self._threads), "rounds": rounds, "models": list(self._rows.values())}
        if self._texts is None:
            return result
        return result | {"texts": self._texts.about()}

    def look_inside(self, *, operators: bool, nodes: bool, memory: bool) -> None:
        """Add times per operator, node counts and memory to the rows, at the first shape or batch of texts.

        Raises:
            UsageError: This system does not tell the memory of a process.
        """
        if memory and not is_measurable():
            raise UsageError("this system does not tell the memory of a process", where="--memory", fix="leave it out")
        for label, path in self._paths.items():
            row, feeds, threads = self._rows[label], self._sample(label), self._threads[0]
            if operators or nodes:
                times = profile.profile(path, feeds, threads=threads, runs=5 if operators else 1)
                row["nodes"] = dict(sorted((operator.op_type, operator.nodes) for operator in times))
            if operators:
                left = profile.budget(times)
                row["profile"] = list(map(asdict, times))
                row["budget"] = asdict(left) | {"share": left.share, "distance": left.distance}
            if memory:
                row["memory"] = asdict(measure_memory(path, feeds, threads=threads))

    def _measure_texts(self, texts: TextBatches, threads: int, rounds: int) -> None:
        series = {label: texts.series(inputs_of(opened)) for label, opened in self._sessions.items()}
        for label, figures in _figures(measure_series(self._runners(threads), series, rounds=rounds)).items():
            seconds = figures["median_ms"] / 1e3
            rates = {"texts_per_s": texts.texts / seconds, "tokens_per_s": texts.tokens / seconds}
            runs = sum(map(len, series[label]))
            self._rows[label].setdefault("texts", []).append({"threads": threads, "runs": runs} | rates | figures)

    def _measure_runs(self, shape: Shape, threads: int, rounds: int) -> None:
        feeds = self._feeds(shape)
        if self._given is None:
            where = {"threads": threads, "batch": self._understood().rows(*shape), "sequence": shape[1]}
        else:
            sizes = max((array.shape for array in feeds.values()), key=len) or (1,)
            where = {"threads": threads, "batch": sizes[0], "sequence": sizes[-1]}
        for label, figures in _figures(measure(self._runners(threads), feeds, rounds=rounds)).items():
            self._rows[label]["latency"].append(where | figures)

    def _measure_decoding(self, shape: Shape, tokens: int, threads: int, rounds: int) -> None:
        options = {"batch": shape[0], "prompt": shape[1], "tokens": tokens, "rounds": rounds}
        rows = {name: meaning.below for name, meaning in self._understood().meanings.items()}
        times = measure_decoding(self._sessions, vocab=rows, **options)
        first = _figures({label: decoding.first for label, decoding in times.items()})
        token = _figures({label: decoding.token for label, decoding in times.items()})
        for label in times:
            row = {"threads": threads, "batch": shape[0], "prompt": shape[1], "tokens": tokens}
            self._rows[label].setdefault("decoding", []).append(row | {"first": first[label], "token": token[label]})

    def _runners(self, threads: int) -> Mapping[str, Any]:
        """What is timed: the sessions, or the same files in OpenVINO."""
        if not self._elsewhere:
            return self._sessions
        return {label: OpenVinoSession(path, threads) for label, path in self._paths.items()}

    def _add(self, label: str, path: Path) -> None:
        entries = settings(load(path).metadata_props)
        start = time.perf_counter()
        self._sessions[label] = self._open(path, self._threads[0], entries)
        seconds = time.perf_counter() - start
        self._paths[label], self._settings[label] = path, entries
        self._rows[label] = {"model": label, "bytes": size(path), "load_s": seconds, "latency": []}

    def _open(self, path: Path, threads: int, entries: Mapping[str, str]) -> ort.InferenceSession:
        opened = session(path, threads=threads, settings=entries)
        if self._providers != opened.get_providers():
            opened.set_providers(self._providers)
        return opened

    def _sample(self, label: str) -> Feeds:
        """Inputs of one run of a model: its first."""
        if self._texts is None:
            return self._feeds(self._shapes[0])
        return self._texts.series(inputs_of(self._sessions[label]))[0][0]

    def _feeds(self, shape: Shape) -> Feeds:
        if self._given is not None:
            return self._given
        sampler = self._understood()
        feeds: Feeds = {}
        for opened in self._sessions.values():
            sample = sampler.of(inputs_of(opened)).sample(sampler.rows(*shape), shape[1])
            feeds = sample | feeds  # what the baseline takes, all others take too
        return feeds

    def _understood(self) -> Sampler:
        """What the inputs of the first model mean, found out once."""
        if self._sampler is None:
            self._sampler = Sampler(load(self._first), self._sessions[str(self._first)])
        return self._sampler


def _figures(times: Mapping[str, Latency]) -> dict[str, dict[str, Any]]:
    """Times and ratios to the first of them, as in the JSON output."""
    baseline = next(iter(times.values()))
    figures: dict[str, dict[str, Any]] = {}
    for label, latency in times.items():
        faster = latency.speedup_over(baseline)
        figures[label] = {
            "median_ms": latency.median_ms,
            "min_ms": latency.min_ms,
            "times_faster_median": faster.of_medians,
            "times_faster_min": faster.of_minima,
            "times_faster_rounds": asdict(latency.ratios_over(baseline)),
        }
    return figures
