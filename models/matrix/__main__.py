"""Make the matrix of architectures: ``python -m models.matrix --json found.json --resume --markdown``."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from pathlib import Path

from models.matrix.exports import EXPORTERS, files
from models.matrix.families import FAMILIES
from models.matrix.judge import PRESETS, TOOLS_BESIDE, judge, recipe_of
from models.matrix.table import Found, markdown

DTYPES = ("fp32", "fp16", "bf16")


def main() -> int:
    """Make what was asked for, cell by cell, and print what is no pass on the way."""
    options = _options()
    found: Found = {"exports": {}, "cells": {}}
    if (options.resume or options.table) and options.json.exists():
        found = json.loads(options.json.read_text(encoding="utf-8"))
    if options.table:
        print(markdown(found), end="")
        return 0
    for dtype, exporter, family in itertools.product(options.dtype, options.exporter, options.family):
        _cells(found, options, family, exporter, dtype)
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if options.markdown:
        print(markdown(found), end="")
    return int(any(cell["status"] == "failed" for name, cell in found["cells"].items() if name.endswith(PRESETS)))


def _cells(found: Found, options: argparse.Namespace, family: str, exporter: str, dtype: str) -> None:
    export = f"{family}/{exporter}-{dtype}"
    made = files(options.cache, family, exporter, dtype)
    found["exports"][export] = made if isinstance(made, str) else ""
    if isinstance(made, str):
        return
    for how in options.preset:
        cell = f"{export}/{how}"
        known = found["cells"].get(cell)
        if known and (known["status"] == "pass" or not options.retry):
            continue
        verdict = judge(made, how, dtype, recipe_of(family))
        found["cells"][cell] = dataclasses.asdict(verdict)
        if verdict.status != "pass":
            print(f"{cell}: {verdict.status}: {verdict.reason}", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models.matrix", description=__doc__)
    kinds = {"family": tuple(FAMILIES), "exporter": tuple(EXPORTERS), "dtype": DTYPES}
    for name, choices in {**kinds, "preset": (*PRESETS, *TOOLS_BESIDE)}.items():
        parser.add_argument(f"--{name}", nargs="+", choices=choices, default=list(choices), metavar=name.upper())
    parser.add_argument("--cache", type=Path, default=Path("matrix-exports"), help="folder of the exported files")
    parser.add_argument("--json", type=Path, default=Path("matrix.json"), help="what was found, cell by cell")
    parser.add_argument("--resume", action="store_true", help="keep the cells that are in the file of --json")
    parser.add_argument("--retry", action="store_true", help="with --resume: make those again that are no pass")
    parser.add_argument("--markdown", action="store_true", help="print the table of models/README.md")
    parser.add_argument("--table", action="store_true", help="make nothing: print the table of the file of --json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
