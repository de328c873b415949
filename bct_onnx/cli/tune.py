"""``bct-onnx tune``: what the kernels of matrix products cost on this machine, for `lower-decoding`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bct_onnx.cli import options


def tune(
    *,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE.json", help="Write the table, for lower-decoding{costs=FILE}."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs per kernel; more on a busy machine.")] = 60,
    threads: options.Threads = 1,
    as_json: options.AsJson = False,
) -> None:
    """Measure the kernels that lower-decoding chooses from on this machine: about 20 seconds.

    Without -o the table is only printed. A rewrite takes it by name, so that it gives the same bytes anywhere:
    a recipe with [options.lower-decoding] costs = "FILE.json", or --passes '...,lower-decoding{costs=FILE.json}'.
    """
    from bct_onnx.errors import OutputError, UsageError
    from bct_onnx.runtime.latency import cpu_features
    from bct_onnx.runtime.tuning import tune as measure

    if output is not None and output.suffix != ".json":
        raise UsageError("a table of costs is a .json file", where=str(output), fix="name it FILE.json")
    if output is not None and output.exists() and not force:
        raise UsageError("the output exists", where=str(output), fix="replace it with --force, or choose another")
    cpu = cpu_features()
    import onnxruntime

    flags = ", ".join(cpu.flags or ()) or "unknown instruction sets"
    about = f"{cpu.model} ({flags}), {threads} threads, ONNX Runtime {onnxruntime.__version__}; bct-onnx tune"
    costs = measure(output.stem if output is not None else "this machine", about, rounds=rounds, threads=threads)
    if output is not None:
        try:
            output.write_text(costs.to_json(), encoding="utf-8")
        except OSError as error:
            raise OutputError(
                "the table could not be written", where=str(output), why=error.strerror or str(error)
            ) from error
    if as_json:
        print(costs.to_json(), end="")
        return
    from bct_onnx.cli.bench_table import table, wide
    from bct_onnx.runtime.kernel_costs import load, shipped
    from bct_onnx.runtime.tuning import ROWS, rows_of

    made = table("us, 768 x 3072 weights", (f"{rows} row{'s' if rows > 1 else ''}" for rows in ROWS))
    for one in (costs, *map(load, shipped())):
        made.add_row(one.name)
        for kernel, times in rows_of(one):
            made.add_row(f"  {kernel}", *(f"{time:.0f}" for time in times))
    wide().print(made)
    print(f"\n{costs.about}")
    if output is not None:
        print(f"wrote {output}")
