"""Make the table: ``python -m models.real_files --cache FOLDER [--only FILE] [--preset P ...] [--target T ...]``.

Cells are appended to a file as they are made, and are not made again unless ``--again`` asks for it: whatever ends the
program, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bct_onnx.registry import PRESETS, TARGETS, default_preset
from models.real_files.judge import SAMPLES, judge, source
from models.real_files.packages import model_file
from models.real_files.running import Limits, Runner
from models.real_files.table import Cells, line, markdown, refused

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILES: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_name("files.toml").read_text(encoding="utf-8"))
DATA_FREE = "w4a8-nearest"


def main() -> int:
    """Make what was asked for, cell by cell."""
    options = _options()
    cells = _read(options.cells)
    with Runner() as runner:
        for name in [] if options.table else options.only:
            wanted = [key for key in _keys(name, options) if options.again or key not in cells]
            if not wanted:
                continue
            original = source(model_file(FILES[name], options.cache), SAMPLES[FILES[name]["samples"]])
            for key in wanted:
                result = options.cache / f"result-{name}.onnx"
                limits = Limits(options.seconds, options.gigabytes << 30)
                cell = judge(runner, original, result, key[1], key[2], limits)
                cells[key] = dataclasses.asdict(cell) | {"commit": options.commit}
                _append(options.cells, key, cells[key])
                print(f"{name:18} {key[1]:13} {key[2]:16} {line(cells[key])}", flush=True)
    if options.markdown is not None:
        options.markdown.write_text(markdown(cells, FILES), encoding="utf-8")
    return 0


def _keys(name: str, options: argparse.Namespace) -> Iterable[tuple[str, str, str]]:
    """File, preset and target of each cell that was asked for and is not refused whatever the file."""
    for preset, target in itertools.product(options.preset, options.target):
        if refused(preset, target):
            continue
        if not options.own or preset in (default_preset(target), DATA_FREE):
            yield name, preset, target


def _read(file: Path) -> Cells:
    """The last of the lines that are about a cell holds."""
    cells: Cells = {}
    if file.exists():
        for text in file.read_text(encoding="utf-8").splitlines():
            cell = json.loads(text)
            cells[tuple(cell.pop("cell"))] = cell
    return cells


def _append(file: Path, key: tuple[str, str, str], cell: dict[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"cell": key, **cell}) + "\n")


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models.real_files", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for packages and results")
    parser.add_argument("--only", nargs="+", choices=FILES, default=list(FILES), metavar="FILE")
    parser.add_argument("--preset", nargs="+", choices=PRESETS, default=list(PRESETS), metavar="PRESET")
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="TARGET")
    parser.add_argument("--own", action="store_true", help=f"of each target its default preset and {DATA_FREE} alone")
    parser.add_argument("--again", action="store_true", help="make also the cells that were made before")
    parser.add_argument("--cells", type=Path, help="file of what was found, a line per cell; cells.jsonl in the cache")
    parser.add_argument("--markdown", type=Path, help="write the table of all that was found to this file")
    parser.add_argument("--table", action="store_true", help="make nothing: write the table of what was found before")
    parser.add_argument("--seconds", type=int, default=600, help="processor time that one rewrite may take")
    parser.add_argument("--gigabytes", type=int, default=8, help="address space that one rewrite may take")
    parser.add_argument("--commit", default=_commit(), help="commit of the program, to be noted in the table")
    options = parser.parse_args()
    options.cells = options.cells or options.cache / "cells.jsonl"
    return options


if __name__ == "__main__":
    sys.exit(main())
