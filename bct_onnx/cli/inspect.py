"""``bct-onnx inspect``: what a model is made of, compressed or not, and what a target would not take of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bct_onnx.cli import options
from bct_onnx.cli.completion import target_names

if TYPE_CHECKING:
    from bct_onnx.targets import Legality


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX model.")],
    *,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help="Also list what this target does not take of the model; exits with 4 if it must.",
            autocompletion=target_names,
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Show a model's size, bits per weight, operators, and the float weights in it. No weight is read.

    With --target the integer products are looked at too: int8 weights beyond 64 saturate on CPUs without VNNI.
    """
    from bct_onnx import targets
    from bct_onnx.cli.tables.report import inventory_lines, runtime_line
    from bct_onnx.cli.tables.targets import check_lines
    from bct_onnx.graph import runtimes
    from bct_onnx.graph.inventory import inventory, unfolded
    from bct_onnx.graph.load import load, size
    from bct_onnx.report import inventory_figures, left_figures

    chosen = None if target is None else targets.find(target)
    graph, nbytes = load(model), size(model)
    parts = inventory(graph)
    expanded = runtimes.expanded(graph)
    left, lowest = parts.float_weights_left({}), runtimes.lowest(graph, expanded)
    figures = {
        "model": str(model),
        "bytes": nbytes,
        **inventory_figures(parts),
        "ratio_file": 4 * parts.parameters / nbytes,
        "float_weights_left": left_figures(left),
        "unfolded": unfolded(graph, parts),
        "opsets": dict(graph.graph.opset_imports),
        "metadata": dict(graph.metadata_props),
        "lowest_runtime": None if lowest is None else dataclasses.asdict(lowest),
    }
    lines = inventory_lines(parts, nbytes, left, figures["unfolded"], graph.metadata_props)
    if lowest is not None:
        lines.append(f"  runtime    {runtime_line(lowest)}")
    legality = None
    if chosen is not None:
        legality, products = targets.check(graph, chosen, expanded), targets.products(graph)
        figures |= {**legality.as_dict(), "int8_products": products.as_dict()}
        lines += check_lines(legality, products)
    print(json.dumps(figures, indent=2) if as_json else "\n".join(lines))
    if legality is not None:
        _refuse(legality, model)


def _refuse(legality: Legality, model: Path) -> None:
    """Raise where the target must take a node that it does not take."""
    from bct_onnx.errors import TargetError

    if not legality.illegal:
        return
    first = legality.illegal[0]
    raise TargetError(
        f"target {legality.target} does not take {len(legality.illegal)} nodes of the model",
        where=f"{model}: {first.node} ({first.operator})",
        why=first.why,
        fix=f"bct-onnx rewrite MODEL -o OUT --target {legality.target}, from the float export",
    )
