"""``bct-onnx budget``: where the time of a model goes before and after each pass that lowers it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from bct_onnx.cli import options


def budget(
    model: options.Model,
    *,
    preset: options.Preset = None,
    passes: options.Passes = None,
    recipe: options.Recipe = None,
    target: options.Target = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows per run.")] = 8,
    seq: Annotated[int, typer.Option(min=1, help="Tokens per row.")] = 128,
    threads: options.Threads = 1,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs per stage.")] = 5,
    as_json: options.AsJson = False,
) -> None:
    """Rewrite a model, keep nothing, and show the time per operator after each pass of the target's lowering.

    The first column is the model as it came. Below them, what the 8-bit products with weights take of it: the rest is
    what there is to win. `x` is times as long as these products alone.
    """
    from bct_onnx import registry
    from bct_onnx.graph.atomic import scratch
    from bct_onnx.recipe import choose
    from bct_onnx.rewriting import Options, rewrite

    pipeline, chosen = choose(preset=preset, passes=passes, recipe=recipe, target=target)
    lowering = {one.name for one in registry.lowering(chosen)}
    with scratch("budget") as folder:
        kept = folder / "passes"
        rewrite(model, pipeline, target=chosen, options=Options(keep_passes=kept, check=False))
        files = sorted(kept.glob("*.onnx"))
        lowered = [number for number, file in enumerate(files) if _pass(file) in lowering]
        wanted = sorted({0, max(0, min(lowered, default=1) - 1), *lowered})
        stages = [_stage(files[number], batch, seq, threads, runs) for number in wanted]
    if as_json:
        print(json.dumps({"batch": batch, "sequence": seq, "threads": threads, "stages": stages}, indent=2))
    else:
        _print(stages)


def _pass(file: Path) -> str:
    return file.stem.partition("-")[2]


def _stage(file: Path, batch: int, seq: int, threads: int, runs: int) -> dict[str, Any]:
    """The profile of a model between two passes."""
    from bct_onnx.graph.load import load
    from bct_onnx.runtime.profile import budget as budget_of
    from bct_onnx.runtime.profile import profile
    from bct_onnx.runtime.session import session
    from bct_onnx.runtime.understanding import Sampler

    feeds = Sampler(load(file), session(file)).sample(batch, seq)
    operators = profile(file, feeds, threads=threads, runs=runs)
    left = budget_of(operators)
    return {
        "after": _pass(file),
        "operators": [asdict(one) for one in operators],
        **asdict(left),
        "share": left.share,
        "distance": left.distance,
    }


def _print(stages: list[dict[str, Any]]) -> None:
    from bct_onnx.cli.bench_table import table, wide

    made = table("ms after", (stage["after"] for stage in stages))
    times = [{one["op_type"]: one["ms"] for one in stage["operators"]} for stage in stages]
    for operator in sorted(set().union(*times), key=lambda name: (-max(one.get(name, 0.0) for one in times), name)):
        made.add_row(operator, *(f"{one[operator]:.2f}" if operator in one else "" for one in times))
    made.add_row("all", *(f"{stage['total_ms']:.2f}" for stage in stages))
    made.add_row("nodes that run", *(str(sum(one["nodes"] for one in stage["operators"])) for stage in stages))
    made.add_row("8-bit products", *(f"{stage['products_ms']:.2f}" for stage in stages))
    made.add_row("  of all, %", *(f"{100 * stage['share']:.0f}" for stage in stages))
    made.add_row("  all, x", *("" if stage["distance"] is None else f"{stage['distance']:.2f}" for stage in stages))
    wide().print(made)
