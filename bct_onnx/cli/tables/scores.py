"""Scores of models on labelled data, as a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from bct_onnx.cli.tables.cells import console, figures, grid
from bct_onnx.figures import number, percent


def print_scores(result: dict[str, Any]) -> None:
    """Print the result of a comparison on labelled data."""
    out = console()
    out.print(table(result))
    out.print(f"\n{result['task']}, {result['sequences']} sequences of {result['data']}", markup=False)
    if len(result["models"]) > 1:
        out.print(
            f"worse by: {result['drop_unit']} of {result['metric']}; SQNR, KL, same: from the first model's outputs"
        )


def table(result: dict[str, Any]) -> Table:
    """One row per model; with three metrics and names that can be folded it fits 100 columns."""
    models = result["models"]
    metrics = list(models[0]["metrics"])
    digits, worse = (".3f", "worse\n%") if result["drop_unit"] == "percent" else (".2f", "worse\nby")
    compared = (worse, "SQNR\ndB", "KL\nnats", "same\n%") if len(models) > 1 else ()
    scored = [_HYPHENS.get(name, f"\n{name}") for name in metrics]
    headings = ("\nMB", "\nratio", "bits/\nweight", *scored, *compared, "load\ns", "ms/\nbatch", "times\nfaster")
    rows = grid("model", headings, gap=1)
    for name, row in zip(_short([row["model"] for row in models]), models, strict=True):
        size = (f"{row['bytes'] / 1e6:.2f}", f"{row['ratio']:.2f}", f"{row['bits_per_weight']:.2f}")
        scores = figures((row["metrics"][metric] for metric in metrics), digits, "nan")
        times = (f"{row['load_s']:.2f}", f"{row['batch_ms']:.1f}", f"{row['times_faster']:.2f}")
        away = _away(row, first=row is models[0]) if compared else ()
        rows.add_row(name, *size, *scores, *away, *times)
    return rows


_HYPHENS = {
    "accuracy": "accu-\nracy",
    "matthews": "Mat-\nthews",
    "spearman": "Spear-\nman",
    "pearson": "Pear-\nson",
    "perplexity": "perple-\nxity",
    "precision": "preci-\nsion",
}
"""Headings of two lines keep the table within 100 columns."""


def _away(row: dict[str, Any], *, first: bool) -> tuple[str, ...]:
    """How much worse, and how far from the first model."""
    if first:
        return ("", "", "", "")
    sqnr = "exact" if row["exact"] else number(row["sqnr_db"], ".1f")
    same = percent(row["agreement"], ".2f", "-")
    return number(row["drop"], ".2f", "nan"), sqnr, number(row["kl"], ".2g"), same


def _short(models: Sequence[str]) -> list[str]:
    """Paths without the folder they share, and without the ending they all have."""
    shared = os.path.commonpath([Path(model).absolute().parent for model in models])
    return [os.path.relpath(model, shared).replace(".onnx", "") for model in models]
