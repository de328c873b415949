"""``bct-onnx bench``: models side by side for speed, size and memory, other tools' results among them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bct_onnx.cli import options

if TYPE_CHECKING:
    import onnxruntime as ort

    from bct_onnx.runtime.feeds import Feeds
    from bct_onnx.runtime.latency import Latency
    from bct_onnx.runtime.understanding import Sampler

Shape = tuple[int, int]


def bench(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="ONNX files; the first is the baseline.")],
    *,
    batch: Annotated[int, typer.Option(min=1, help="Rows per run.")] = 8,
    seq: Annotated[int, typer.Option(min=1, help="Tokens per row; with --tokens, of the prompt.")] = 128,
    shape: Annotated[
        list[str] | None, typer.Option(metavar="BxS", help="Batch and sequence, instead of both above; repeatable.")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Decoders with a cache: the prompt (one row by default), then so many single tokens."),
    ] = None,
    threads: options.Threads = 1,
    provider: Annotated[str, typer.Option(metavar="P", help="cpu, or cuda where onnxruntime has it.")] = "cpu",
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs per model, interleaved.")] = 10,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also the time per operator that ORT runs, at the first shape.")
    ] = False,
    nodes: Annotated[
        bool, typer.Option("--nodes", help="Also how many nodes of each operator ORT runs after its own fusions.")
    ] = False,
    memory: Annotated[
        bool, typer.Option("--memory", help="Also resident memory, each model in a process of its own (Linux).")
    ] = False,
    inputs: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Inputs by name, instead of made-up ones of the shapes above."),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="TOOL", help="Add what ort-dynamic, ort-nbits4, ... makes of the first; repeatable."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure size, load time and latency of models in ONNX Runtime on the CPU.

    Runs are interleaved, so that other load on the machine meets all models alike. `x` is times faster than the first
    model: by the medians, by the minima, and as the median and quartiles of the ratios within each round. Inputs are
    random but valid.
    """
    from bct_onnx.cli.bench_table import show
    from bct_onnx.errors import UsageError
    from bct_onnx.graph.atomic import scratch

    providers = providers_of(provider)
    if provider != "cpu" and (profile or nodes or memory):
        raise UsageError("operators and memory are looked at on the CPU only", where="--provider", fix="leave it out")
    if inputs is not None and (shape or tokens is not None):
        raise UsageError(
            "the file of inputs has its own shapes", where="--inputs", fix="leave --shape and --tokens out"
        )
    row = 1 if tokens is not None and batch == 8 else batch
    shapes = [parse_shape(text) for text in shape] if shape else [(row, seq)]
    with scratch("bench") as folder:
        lineup = _Lineup(models, threads, shapes, providers, inputs)
        for tool in dict.fromkeys(against or ()):
            lineup.add_tool(tool, folder)
        result = lineup.measure(rounds, tokens)
        lineup.look_inside(profile=profile, nodes=nodes, memory=memory)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


def parse_shape(text: str) -> Shape:
    """Batch and sequence from BxS.

    Raises:
        UsageError: It is written in another way.
    """
    from bct_onnx.errors import UsageError

    match = re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", text)
    if match is None:
        raise UsageError(f"'{text}' is not a shape", where="--shape", fix="write batch x sequence, for example 8x128")
    return int(match[1]), int(match[2])


def providers_of(name: str) -> list[str]:
    """The execution providers of ONNX Runtime for `cpu` or `cuda`.

    Raises:
        UsageError: It is another, or the installed onnxruntime does not have it.
    """
    import onnxruntime

    from bct_onnx.errors import UsageError

    known = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}
    if name not in known:
        raise UsageError(f"unknown provider '{name}'", where="--provider", fix=f"use {' or '.join(known)}")
    available = onnxruntime.get_available_providers()
    if known[name][0] not in available:
        raise UsageError(
            f"the installed onnxruntime has no {known[name][0]}",
            where="--provider",
            why=f"it has {', '.join(available)}",
            fix="install onnxruntime-gpu on a machine with such a device, or measure on the cpu",
        )
    return known[name]


class _Lineup:
    """The models of one comparison, loaded, with inputs that fit all of them."""

    def __init__(
        self,
        models: Sequence[Path],
        threads: int,
        shapes: Sequence[Shape],
        providers: Sequence[str],
        inputs: Path | None,
    ) -> None:
        from bct_onnx.runtime.feeds import load_feeds

        self._threads, self._shapes, self._first = threads, shapes, models[0]
        self._providers = list(providers)
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._paths: dict[str, Path] = {}
        self._rows: dict[str, dict[str, Any]] = {}
        self._sampler: Sampler | None = None
        for model in dict.fromkeys(models):
            self._add(str(model), model)
        self._given = None if inputs is None else load_feeds(inputs, self._sessions[str(models[0])])

    def add_tool(self, name: str, folder: Path) -> None:
        """Another tool's result from the first model, or its error."""
        from bct_onnx.errors import UsageError
        from bct_onnx.runtime.optimizers import OPTIMIZERS
        from bct_onnx.runtime.others import TOOLS, make

        known = TOOLS | OPTIMIZERS
        if name not in known:
            raise UsageError(f"unknown tool '{name}'", where="--against", fix=f"use {' or '.join(known)}")
        made = make(known[name], self._first, folder, self._feeds(self._shapes[0]))
        if made.path is None:
            self._rows[name] = {"model": name, "error": made.error}
        else:
            self._add(f"{name} ({made.setting})", made.path)

    def measure(self, rounds: int, tokens: int | None) -> dict[str, Any]:
        """All times, in the form of the JSON output."""
        from bct_onnx.runtime.int8_speed import int8_speed
        from bct_onnx.runtime.latency import cpu_features, measure

        for shape in self._shapes:
            if tokens is not None:
                self._measure_decoding(shape, tokens, rounds)
                continue
            feeds = self._feeds(shape)
            where = {"batch": self._understood().rows(*shape) if self._given is None else 0, "sequence": shape[1]}
            if self._given is not None:
                sizes = max((array.shape for array in feeds.values()), key=len)
                where = {"batch": sizes[0] if sizes else 1, "sequence": sizes[-1] if sizes else 1}
            for label, found in _figures(measure(self._sessions, feeds, rounds=rounds)).items():
                self._rows[label]["latency"].append(where | found)
        cpu = cpu_features()
        about = {"architecture": cpu.architecture, "model": cpu.model, "flags": cpu.flags, "int8": int8_speed().said}
        return {"cpu": about, "threads": self._threads, "rounds": rounds, "models": list(self._rows.values())}

    def look_inside(self, *, profile: bool, nodes: bool, memory: bool) -> None:
        """Add operators, node counts and memory to the rows, at the first shape."""
        from dataclasses import asdict

        from bct_onnx.errors import UsageError
        from bct_onnx.runtime.memory import is_measurable, measure_memory
        from bct_onnx.runtime.profile import budget
        from bct_onnx.runtime.profile import profile as measure

        if memory and not is_measurable():
            raise UsageError("this system does not tell the memory of a process", where="--memory", fix="leave it out")
        feeds = self._feeds(self._shapes[0])
        for label, path in self._paths.items():
            row = self._rows[label]
            if profile or nodes:
                operators = measure(path, feeds, threads=self._threads, runs=5 if profile else 1)
                row["nodes"] = {one.op_type: one.nodes for one in sorted(operators, key=lambda each: each.op_type)}
            if profile:
                left = budget(operators)
                row["profile"] = [asdict(operator) for operator in operators]
                row["budget"] = asdict(left) | {"share": left.share, "distance": left.distance}
            if memory:
                row["memory"] = asdict(measure_memory(path, feeds, threads=self._threads))

    def _measure_decoding(self, shape: Shape, tokens: int, rounds: int) -> None:
        from bct_onnx.runtime.decoding import measure_decoding

        options = {"batch": shape[0], "prompt": shape[1], "tokens": tokens, "rounds": rounds}
        rows = {name: meaning.below for name, meaning in self._understood().meanings.items()}
        found = measure_decoding(self._sessions, vocab=rows, **options)
        first = _figures({label: one.first for label, one in found.items()})
        token = _figures({label: one.token for label, one in found.items()})
        for label in found:
            row = {"batch": shape[0], "prompt": shape[1], "tokens": tokens}
            self._rows[label].setdefault("decoding", []).append(row | {"first": first[label], "token": token[label]})

    def _add(self, label: str, path: Path) -> None:
        import time

        from bct_onnx.graph.load import load, size
        from bct_onnx.runtime.session import session
        from bct_onnx.targets import settings

        entries = settings(load(path).metadata_props)
        start = time.perf_counter()
        self._sessions[label] = session(path, threads=self._threads, settings=entries)
        if self._providers != self._sessions[label].get_providers():
            self._sessions[label].set_providers(self._providers)
        seconds = time.perf_counter() - start
        self._paths[label] = path
        self._rows[label] = {"model": label, "bytes": size(path), "load_s": seconds, "latency": []}

    def _feeds(self, shape: Shape) -> Feeds:
        from bct_onnx.runtime.inputs import inputs_of

        if self._given is not None:
            return self._given
        sampler = self._understood()
        feeds: Feeds = {}
        for session in self._sessions.values():
            made = sampler.of(inputs_of(session)).sample(sampler.rows(*shape), shape[1])
            feeds = made | feeds  # what the baseline takes, all others take too
        return feeds

    def _understood(self) -> Sampler:
        """What the inputs of the first model mean, found out once."""
        from bct_onnx.graph.load import load
        from bct_onnx.runtime.understanding import Sampler

        if self._sampler is None:
            self._sampler = Sampler(load(self._first), self._sessions[str(self._first)])
        return self._sampler


def _figures(times: Mapping[str, Latency]) -> dict[str, dict[str, Any]]:
    """Times and ratios to the first of them, as in the JSON output."""
    from dataclasses import asdict

    baseline = next(iter(times.values()))
    found: dict[str, dict[str, Any]] = {}
    for label, time in times.items():
        faster = time.speedup_over(baseline)
        found[label] = {
            "median_ms": time.median_ms,
            "min_ms": time.min_ms,
            "times_faster_median": faster.of_medians,
            "times_faster_min": faster.of_minima,
            "times_faster_rounds": asdict(time.ratios_over(baseline)),
        }
    return found
