"""``bct-onnx compare``: how far a model's outputs are from another's, and what differs between the two files."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bct_onnx.cli import options

if TYPE_CHECKING:
    import onnx_ir as ir
    import onnxruntime as ort

    from bct_onnx.runtime.feeds import Feeds
    from bct_onnx.runtime.parity import Parity


def compare(
    reference: Annotated[Path, typer.Argument(metavar="A", help="The reference, usually the float model.")],
    candidate: Annotated[Path, typer.Argument(metavar="B", help="The model to compare with it.")],
    *,
    inputs: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Inputs by name; random ones without it.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Number of random samples.")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="Rows per random sample.")] = 2,
    seq: Annotated[int, typer.Option(min=1, help="Tokens per row.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of the random inputs.")] = 0,
    threads: options.Threads = 1,
    min_sqnr: Annotated[
        float | None, typer.Option(metavar="DB", help="Exit with 1 when the total SQNR is below this.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Run two models on the same inputs and compare outputs, sizes and operators.

    Outputs are paired by position. SQNR is the power of A's output over the power of the difference, in dB; top-1 is
    how often the largest column of a row is the same.
    """
    from bct_onnx import targets
    from bct_onnx.errors import GateError
    from bct_onnx.graph.load import load, size
    from bct_onnx.runtime.feeds import load_feeds
    from bct_onnx.runtime.parity import measure_parity
    from bct_onnx.runtime.session import session

    models = load(reference), load(candidate)
    first, second = (targets.settings(model.metadata_props) for model in models)
    sessions = (
        session(reference, threads=threads, settings=first),
        session(candidate, threads=threads, settings=second),
    )
    if inputs is not None:
        feeds, source = [load_feeds(inputs, sessions[0])], str(inputs)
    else:
        feeds = _feeds(sessions[0], models[0], samples=samples, batch=batch, seq=seq, seed=seed)
        source = f"random inputs {batch}x{seq}, seed {seed}"
    parity = measure_parity(*sessions, feeds, source=source)
    result = {
        "reference": {"model": str(reference), "bytes": size(reference)},
        "candidate": {"model": str(candidate), "bytes": size(candidate)},
        "parity": parity.as_dict(),
        "operators": _changed(*(_operators(model) for model in models)),
    }
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        _print(result, parity)
    if min_sqnr is not None and not (parity.finite and parity.sqnr_db >= min_sqnr):
        why = f"it is {parity.sqnr_db:.2f} dB" if parity.finite else "outputs are not finite where the reference's are"
        raise GateError(f"the SQNR misses --min-sqnr {min_sqnr:g}", where=str(candidate), why=why)


def _feeds(
    session: ort.InferenceSession, graph: ir.Model, *, samples: int, batch: int, seq: int, seed: int
) -> list[Feeds]:
    from bct_onnx.runtime.understanding import Sampler

    sampler = Sampler(graph, session)
    length = sampler.longest(seq)
    rows = sampler.rows(batch, length)
    return [sampler.sample(rows, length, seed=each, family="check") for each in range(seed, seed + samples)]


def _operators(model: ir.Model) -> Counter[str]:
    """Nodes per operator: subgraphs count, and the body of every function once."""
    nodes = [
        *model.graph.all_nodes(),
        *(node for function in model.functions.values() for node in function.all_nodes()),
    ]
    return Counter(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in nodes)


def _changed(before: Counter[str], after: Counter[str]) -> dict[str, list[int]]:
    names = sorted(before | after)
    return {name: [before[name], after[name]] for name in names if before[name] != after[name]}


def _print(result: dict[str, Any], parity: Parity) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160)
    before, after = result["reference"], result["candidate"]
    ratio = before["bytes"] / after["bytes"]
    console.print(f"size   {before['bytes'] / 1e6:.2f} -> {after['bytes'] / 1e6:.2f} MB, {ratio:.2f}x", soft_wrap=True)
    changes = ", ".join(f"{name} {old}->{new}" for name, (old, new) in result["operators"].items())
    console.print(f"nodes  {changes or 'the same operators'}", soft_wrap=True)
    console.print(f"inputs {parity.samples} samples: {parity.source}\n", soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("output", overflow="fold")
    for name in ("max abs", "rms", "SQNR dB", "cosine", "top-1 %", "finite"):
        table.add_column(name, justify="right")
    for name, figures in [*parity.outputs.items(), ("all", parity)]:
        table.add_row(name, *_figures(figures))
    console.print(table)


def _figures(parity: Parity) -> list[str]:
    top1 = "-" if parity.top1 is None else f"{100 * parity.top1:.2f}"
    sqnr = "exact" if math.isinf(parity.sqnr_db) and parity.exact else f"{parity.sqnr_db:.2f}"
    finite = "yes" if parity.finite else "NO"
    return [f"{parity.max_abs:.3g}", f"{parity.rms:.3g}", sqnr, f"{parity.cosine:.6f}", top1, finite]
