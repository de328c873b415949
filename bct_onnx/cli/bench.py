"""``bct-onnx bench``: models side by side for speed, size and memory; what a lowering and the kernels cost here."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from bct_onnx.cli import options
from bct_onnx.cli.groups import OptionGroup, grouped

if TYPE_CHECKING:
    from bct_onnx.runtime.lineup import Shape

_COSTS = "With --kernels"


@dataclasses.dataclass(frozen=True)
class Runs(OptionGroup):
    """What is run and timed."""

    panel: ClassVar[str] = "What to run"

    batch: Annotated[int | None, typer.Option(min=1, metavar="N", help="Rows per run; by default 8.")] = None
    seq: Annotated[
        int, typer.Option(min=1, metavar="N", help="Tokens per row; with --tokens, of the prompt. By default 128.")
    ] = 128
    shape: Annotated[
        list[str] | None, typer.Option(metavar="BxS", help="Batch and sequence, instead of both above; repeatable.")
    ] = None
    tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Decoders with a cache: the prompt (one row by default), then so many single tokens.",
        ),
    ] = None
    inputs: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Inputs by name, instead of made-up ones of the shapes above."),
    ] = None
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Timed runs per model, interleaved; by default 10 (--by-pass: 5, --kernels: 60).",
        ),
    ] = None
    provider: Annotated[str, typer.Option(metavar="P", help="cpu, or cuda where onnxruntime has it.")] = "cpu"

    def shapes(self) -> list[Shape]:
        """Rows and tokens of each run.

        Raises:
            UsageError: A shape is written in another way than BxS.
        """
        if self.shape:
            return [parse_shape(text) for text in self.shape]
        rows = 1 if self.tokens is not None else 8
        return [(self.batch or rows, self.seq)]


@dataclasses.dataclass(frozen=True)
class Showing(OptionGroup):
    """What is told besides times, of which models."""

    panel: ClassVar[str] = "What else to show"

    against: Annotated[
        list[str] | None,
        typer.Option(metavar="TOOL", help="Add what ort-dynamic, ort-nbits4, ... makes of the first; repeatable."),
    ] = None
    profile: Annotated[
        bool, typer.Option("--profile", help="Also the time per operator that ORT runs, at the first shape.")
    ] = False
    nodes: Annotated[
        bool, typer.Option("--nodes", help="Also how many nodes of each operator ORT runs after its own fusions.")
    ] = False
    memory: Annotated[
        bool, typer.Option("--memory", help="Also resident memory, each model in a process of its own (Linux).")
    ] = False


@grouped
def bench(
    models: Annotated[
        list[Path] | None, typer.Argument(metavar="[MODEL...]", help="ONNX files; the first is the baseline.")
    ] = None,
    *,
    runs: Runs,
    showing: Showing,
    by_pass: Annotated[
        bool,
        typer.Option(
            "--by-pass",
            help="Of one float model: rewrite it, and show the time per operator after each pass of the lowering.",
            rich_help_panel="With --by-pass",
        ),
    ] = False,
    choice: Annotated[options.PipelineChoice, "With --by-pass"],
    kernels: Annotated[
        bool,
        typer.Option(
            "--kernels",
            help="Of no model: measure the kernels that lower-decoding chooses from on this machine, for 20 seconds.",
            rich_help_panel=_COSTS,
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE.json",
            help="Write their table, for lower-decoding{costs=FILE}.",
            rich_help_panel=_COSTS,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing table.", rich_help_panel=_COSTS)] = False,
    threads: options.Threads = 1,
    as_json: options.AsJson = False,
) -> None:
    """Measure size, load time and latency of models in ONNX Runtime on the CPU.

    Runs are interleaved, so that other load on the machine meets all models alike. `x` is times faster than the first
    model: by the medians, by the minima, and as the median and quartiles of the ratios within each round. Inputs are
    random but valid.

    --by-pass shows where the time of one model goes before and after each pass of the target's lowering, and below that
    what its 8-bit products with weights take of it: the rest is what there is to win.

    --kernels needs no model. A rewrite takes its table by name, so that it gives the same bytes anywhere: a recipe with
    [options.lower-decoding] costs = "FILE.json", or --passes '...,lower-decoding{costs=FILE.json}'.
    """
    if kernels:
        options.refuse({"MODEL": models, "--by-pass": by_pass}, "with --kernels")
        _measure_kernels(output, runs.rounds or 60, threads, force=force, as_json=as_json)
        return
    options.refuse({"--output": output, "--force": force}, "without --kernels")
    if by_pass:
        _time_by_pass(_only(models), choice, runs, threads, as_json=as_json)
        return
    unused = {"--preset": choice.preset, "--passes": choice.passes, "--recipe": choice.recipe}
    options.refuse(unused | {"--target": choice.target}, "without --by-pass")
    _compare(models or [], runs, showing, threads, as_json=as_json)


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


def _only(models: Sequence[Path] | None) -> Path:
    """The one model that --by-pass looks at."""
    from bct_onnx.errors import UsageError

    if models is None or len(models) != 1:
        raise UsageError("--by-pass looks at one model", fix="bct-onnx bench MODEL --by-pass")
    return models[0]


def _compare(models: Sequence[Path], runs: Runs, showing: Showing, threads: int, *, as_json: bool) -> None:
    """Time models side by side."""
    from bct_onnx.cli.tables.bench import show
    from bct_onnx.errors import UsageError
    from bct_onnx.graph.atomic import scratch
    from bct_onnx.runtime.lineup import Lineup

    if not models:
        raise UsageError("no model was given", fix="bct-onnx bench MODEL...")
    providers = providers_of(runs.provider)
    if runs.provider != "cpu" and (showing.profile or showing.nodes or showing.memory):
        raise UsageError("operators and memory are looked at on the CPU only", where="--provider", fix="leave it out")
    if runs.inputs is not None and (runs.shape or runs.tokens is not None):
        raise UsageError(
            "the file of inputs has its own shapes", where="--inputs", fix="leave --shape and --tokens out"
        )
    with scratch("bench") as folder:
        lineup = Lineup(models, runs.shapes(), threads=threads, providers=providers, inputs=runs.inputs)
        for tool in dict.fromkeys(showing.against or ()):
            lineup.add_tool(tool, folder)
        result = lineup.measure(runs.rounds or 10, runs.tokens)
        lineup.look_inside(operators=showing.profile, nodes=showing.nodes, memory=showing.memory)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


def _time_by_pass(model: Path, choice: options.PipelineChoice, runs: Runs, threads: int, *, as_json: bool) -> None:
    """Time one model per operator after each pass of the lowering."""
    from bct_onnx.cli.tables.bench import show_stages
    from bct_onnx.lowering_times import lowering_times

    pipeline, target = choice.read()
    batch, tokens = runs.shapes()[0]
    stages = lowering_times(model, pipeline, target, (batch, tokens), threads=threads, runs=runs.rounds or 5)
    if as_json:
        print(json.dumps({"batch": batch, "sequence": tokens, "threads": threads, "stages": stages}, indent=2))
    else:
        show_stages(stages)


def _measure_kernels(output: Path | None, rounds: int, threads: int, *, force: bool, as_json: bool) -> None:
    """Measure what the kernels of matrix products cost on this machine."""
    import onnxruntime

    from bct_onnx.cli.tables.bench import show_kernels
    from bct_onnx.errors import OutputError, UsageError
    from bct_onnx.runtime import tuning
    from bct_onnx.runtime.latency import cpu_features

    if output is not None and output.suffix != ".json":
        raise UsageError("a table of costs is a .json file", where=str(output), fix="name it FILE.json")
    if output is not None and output.exists() and not force:
        raise UsageError("the output exists", where=str(output), fix="replace it with --force, or choose another")
    cpu = cpu_features()
    flags = ", ".join(cpu.flags or ()) or "unknown instruction sets"
    runtime = f"ONNX Runtime {onnxruntime.__version__}"
    about = f"{cpu.model} ({flags}), {threads} threads, {runtime}; bct-onnx bench --kernels"
    name = "this machine" if output is None else output.stem
    costs = tuning.tune(name, about, rounds=rounds, threads=threads)
    if output is not None:
        try:
            output.write_text(costs.to_json(), encoding="utf-8")
        except OSError as error:
            raise OutputError(
                "the table could not be written", where=str(output), why=error.strerror or str(error)
            ) from error
    if as_json:
        print(costs.to_json(), end="")
    else:
        show_kernels(costs, output)
