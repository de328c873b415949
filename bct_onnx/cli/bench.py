"""``bct-onnx bench``: models side by side for speed, size and memory; what a lowering and the kernels cost here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bct_onnx.cli import options
from bct_onnx.cli.groups import grouped
from bct_onnx.cli.timing import ELSEWHERE, Runs, Showing, Texts, parse_threads, providers_of

_COSTS = "With --kernels"


@grouped
def bench(
    models: Annotated[
        list[Path] | None, typer.Argument(metavar="[MODEL...]", help="ONNX files; the first is the baseline.")
    ] = None,
    *,
    runs: Runs,
    texts: Texts,
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
    threads: Annotated[
        str,
        typer.Option(metavar="N[,N...]", help="Threads within an operator, one number after the other; or all."),
    ] = "1",
    as_json: options.AsJson = False,
) -> None:
    """Measure size, load time and latency of models in ONNX Runtime on the CPU, or in OpenVINO.

    Runs are interleaved, so that other load on the machine meets all models alike. `x` is times faster than the first
    model: by the medians, by the minima, and as the median and quartiles of the ratios within each round. Inputs are
    random but valid.

    --texts takes real ones: times are of all batches of the file, which run one after the other, each by all models in
    turn; by default 3 rounds of 32 texts a batch. It tells how much of each batch is padding.

    --by-pass shows where the time of one model goes before and after each pass of the target's lowering, and below that
    what its 8-bit products with weights take of it: the rest is what there is to win.

    --kernels needs no model. A rewrite takes its table by name, so that it gives the same bytes anywhere: a recipe with
    [options.lower-decoding] costs = "FILE.json", or --passes '...,lower-decoding{costs=FILE.json}'.
    """
    if kernels:
        options.refuse({"MODEL": models, "--by-pass": by_pass, "--texts": texts.texts}, "with --kernels")
        _measure_kernels(output, runs.rounds or 60, _single(threads), force=force, as_json=as_json)
        return
    options.refuse({"--output": output, "--force": force}, "without --kernels")
    if by_pass:
        options.refuse({"--texts": texts.texts}, "with --by-pass")
        _time_by_pass(_only(models), choice, runs, _single(threads), as_json=as_json)
        return
    unused = {"--preset": choice.preset, "--passes": choice.passes, "--recipe": choice.recipe}
    options.refuse(unused | {"--target": choice.target}, "without --by-pass")
    _compare(models or [], runs, texts, showing, parse_threads(threads), as_json=as_json)


def _only(models: Sequence[Path] | None) -> Path:
    """The one model that --by-pass looks at."""
    from bct_onnx.errors import UsageError

    if models is None or len(models) != 1:
        raise UsageError("--by-pass looks at one model", fix="bct-onnx bench MODEL --by-pass")
    return models[0]


def _single(threads: str) -> int:
    """The one number of threads that --by-pass and --kernels measure with."""
    from bct_onnx.errors import UsageError

    numbers = parse_threads(threads)
    if len(numbers) > 1:
        raise UsageError("one number of threads at a time", where="--threads", fix="run it once for each")
    return numbers[0]


def _compare(
    models: Sequence[Path], runs: Runs, texts: Texts, showing: Showing, threads: Sequence[int], *, as_json: bool
) -> None:
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
    if runs.provider == ELSEWHERE and runs.tokens is not None:
        raise UsageError("decoding is timed in ONNX Runtime only", where="--tokens", fix="leave it out")
    if runs.inputs is not None and (runs.shape or runs.tokens is not None):
        raise UsageError(
            "the file of inputs has its own shapes", where="--inputs", fix="leave --shape and --tokens out"
        )
    batches = texts.read(models[0], runs.batch)
    if batches is not None:
        options.refuse({"--shape": runs.shape, "--inputs": runs.inputs, "--tokens": runs.tokens}, "with --texts")
    with scratch("bench") as folder:
        lineup = Lineup(
            models,
            runs.shapes(),
            threads=threads,
            providers=providers,
            inputs=runs.inputs,
            texts=batches,
            elsewhere=runs.provider == ELSEWHERE,
        )
        for tool in dict.fromkeys(showing.against or ()):
            lineup.add_tool(tool, folder)
        result = lineup.measure(runs.rounds or (10 if batches is None else 3), runs.tokens)
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
