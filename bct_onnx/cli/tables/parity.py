"""How far the outputs of two models are apart, as a table."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bct_onnx.cli.tables.cells import grid
from bct_onnx.figures import percent

if TYPE_CHECKING:
    from bct_onnx.runtime.parity import Parity


def print_parity(result: dict[str, Any], parity: Parity) -> None:
    """Print what differs between two files, and how far each output is from its counterpart."""
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160)
    before, after = result["reference"], result["candidate"]
    ratio = before["bytes"] / after["bytes"]
    console.print(f"size   {before['bytes'] / 1e6:.2f} -> {after['bytes'] / 1e6:.2f} MB, {ratio:.2f}x", soft_wrap=True)
    changes = ", ".join(f"{name} {old}->{new}" for name, (old, new) in result["operators"].items())
    console.print(f"nodes  {changes or 'the same operators'}", soft_wrap=True)
    console.print(f"inputs {parity.samples} samples: {parity.source}\n", soft_wrap=True)
    table = grid("output", ("max abs", "rms", "SQNR dB", "cosine", "top-1 %", "finite"))
    for name, figures in [*parity.outputs.items(), ("all", parity)]:
        table.add_row(name, *_figures(figures))
    console.print(table)


def _figures(parity: Parity) -> list[str]:
    top1 = percent(parity.top1, ".2f", "-")
    sqnr = "exact" if math.isinf(parity.sqnr_db) and parity.exact else f"{parity.sqnr_db:.2f}"
    finite = "yes" if parity.finite else "NO"
    return [f"{parity.max_abs:.3g}", f"{parity.rms:.3g}", sqnr, f"{parity.cosine:.6f}", top1, finite]
