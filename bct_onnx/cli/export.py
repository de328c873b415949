"""``bct-onnx export``: a trained checkpoint to a checked ONNX file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bct_onnx.exporting import Exported


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint folder, or an id on the Hugging Face hub.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The ONNX file to write.")],
    exporter: Annotated[str, typer.Option(metavar="auto|optimum|dynamo|legacy", help="Who writes the graph.")] = "auto",
    task: Annotated[str, typer.Option(metavar="NAME", help="For example text-classification; auto reads it.")] = "auto",
    opset: Annotated[int | None, typer.Option(help="ONNX operator set; by default the exporter's own.")] = None,
    attention: Annotated[
        str, typer.Option(metavar="default|sdpa|eager", help="Implementation of attention to export.")
    ] = "default",
    dtype: Annotated[str, typer.Option(metavar="fp32|fp16", help="Type of the weights.")] = "fp32",
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Decoders: past keys and values as inputs and outputs.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output where it exists.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what the exporter prints.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Export a Hugging Face checkpoint to ONNX and compare the result with PyTorch.

    Needs the extra: pip install 'bct-onnx[export]'. Weights are float32 whatever type the checkpoint stores. The
    exporter 'auto' is optimum, or dynamo (torch.onnx.export) where optimum has no recipe; it says which and why.
    Nothing is written unless ONNX Runtime computes what PyTorch computes.
    """
    from bct_onnx.exporting import Recipe
    from bct_onnx.exporting import export as run

    recipe = Recipe(exporter, task, opset, attention, dtype, cache)
    if sys.stderr.isatty() and not quiet:
        print(f"exporting {model} ...", file=sys.stderr)
    done = run(model, output, recipe, force=force, verbose=verbose)
    if not quiet:
        print(_summary(model, done))


def _summary(model: str, done: Exported) -> str:
    rows = [
        ("exporter", f"{done.exporter} ({done.reason})" if done.reason else done.exporter),
        ("task", done.task),
        ("opset", str(done.opset)),
        ("inputs", _named(done.inputs)),
        ("outputs", _named(done.outputs)),
        ("check", f"largest difference to PyTorch {done.difference:.2g}"),
        ("wrote", f"{', '.join(map(str, done.files))} ({done.nbytes / 1e6:.1f} MB)"),
        ("next", f"bct-onnx rewrite {done.files[0]} -o {done.files[0].with_suffix('.bct.onnx')}"),
    ]
    return "\n".join([f"bct-onnx export {model}", *(f"  {label:<10}{text}" for label, text in rows)])


def _named(values: tuple[tuple[str, tuple[int | str, ...]], ...]) -> str:
    shown = [f"{name} [{', '.join(map(str, shape))}]" for name, shape in values]
    return ", ".join(shown if len(shown) <= 6 else [*shown[:4], f"... {len(shown) - 4} more"])
