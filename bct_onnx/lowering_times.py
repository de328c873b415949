"""Where the time of a model goes before and after each pass that lowers it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from bct_onnx import registry
from bct_onnx.graph.atomic import scratch
from bct_onnx.graph.load import load
from bct_onnx.graph.names import names_of
from bct_onnx.pipeline import Pipeline
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.lineup import Shape
from bct_onnx.runtime.profile import budget, profile
from bct_onnx.runtime.session import session
from bct_onnx.runtime.understanding import Sampler


def lowering_times(
    model: Path, pipeline: Pipeline, target: str, shape: Shape, *, threads: int, runs: int
) -> list[dict[str, Any]]:
    """Rewrite a model, keep nothing, and profile it as it came, before the lowering, and after each pass of that.

    Returns:
        A stage each: the pass it comes after, its operators with their times in milliseconds, the sum of them, and of
        the 8-bit products with weights their sum, their share, and how many times as long all takes.
    """
    lowering = set(names_of(registry.lowering(target)))
    with scratch("budget") as folder:
        kept = folder / "passes"
        rewrite(model, pipeline, target=target, options=Options(keep_passes=kept, check=False))
        files = sorted(kept.glob("*.onnx"))
        lowered = [number for number, file in enumerate(files) if _pass(file) in lowering]
        timed = sorted({0, max(0, min(lowered, default=1) - 1), *lowered})
        return [_stage(files[number], shape, threads, runs) for number in timed]


def _pass(file: Path) -> str:
    return file.stem.partition("-")[2]


def _stage(file: Path, shape: Shape, threads: int, runs: int) -> dict[str, Any]:
    """The profile of a model between two passes."""
    feeds = Sampler(load(file), session(file)).sample(*shape)
    operators = profile(file, feeds, threads=threads, runs=runs)
    left = budget(operators)
    return {
        "after": _pass(file),
        "operators": list(map(asdict, operators)),
        **asdict(left),
        "share": left.share,
        "distance": left.distance,
    }
