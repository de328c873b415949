"""``bct-onnx inspect``: what a model is made of, compressed or not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from bct_onnx.cli import options


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX model.")],
    *,
    as_json: options.AsJson = False,
) -> None:
    """Show a model's size, bits per weight, operators, and the float weights in it. No weight is read."""
    from bct_onnx.cli.tables import print_inventory
    from bct_onnx.graph.inventory import inventory, unfolded
    from bct_onnx.graph.load import load, size
    from bct_onnx.report import inventory_figures, left_figures

    graph, nbytes = load(model), size(model)
    found = inventory(graph)
    left = found.float_weights_left({})
    if not as_json:
        print_inventory(found, nbytes, left)
        if unfolded(graph, found):
            print(f"  {'unfolded':<10} {unfolded(graph, found)}")
        for key, value in graph.metadata_props.items():
            if key.startswith("bct_onnx."):
                print(f"  {key.removeprefix('bct_onnx.'):<10} {value}")
        return
    figures = {
        "model": str(model),
        "bytes": nbytes,
        **inventory_figures(found),
        "ratio_file": 4 * found.parameters / nbytes,
        "float_weights_left": left_figures(left),
        "unfolded": unfolded(graph, found),
        "opsets": dict(graph.graph.opset_imports),
        "metadata": dict(graph.metadata_props),
    }
    json.dump(figures, sys.stdout, indent=2)
    print()
