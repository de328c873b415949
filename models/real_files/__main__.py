"""Make the table: ``python -m models.real_files --cache FOLDER [--only FILE] [--preset P ...] [--target T ...]``."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from bct_onnx.registry import PRESETS, TARGETS
from models.real_files.judge import SAMPLES, Limits, judge, source
from models.real_files.packages import model_file
from models.real_files.table import line, markdown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILES: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_name("files.toml").read_text(encoding="utf-8"))


def main() -> int:
    """Make what was asked for, cell by cell; a cell that is made again replaces what was found before."""
    options = _options()
    found = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else {}
    for name in [] if options.table else options.only:
        model = model_file(FILES[name], options.cache)
        one = source(model, SAMPLES[FILES[name]["samples"]])
        for preset, target in itertools.product(options.preset, options.target):
            out = options.cache / "result.onnx"
            cell = judge(one, out, preset, target, Limits(options.seconds, options.gigabytes << 30))
            found[f"{name}/{preset}/{target}"] = dataclasses.asdict(cell) | {"commit": options.commit}
            print(f"{name:18} {preset:13} {target:16} {line(found[f'{name}/{preset}/{target}'])}", flush=True)
            options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if options.markdown is not None:
        options.markdown.write_text(markdown(found, FILES), encoding="utf-8")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models.real_files", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for packages and results")
    parser.add_argument("--only", nargs="+", choices=FILES, default=list(FILES), metavar="FILE")
    parser.add_argument("--preset", nargs="+", choices=PRESETS, default=list(PRESETS), metavar="PRESET")
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="TARGET")
    parser.add_argument("--json", type=Path, default=Path("real-files.json"), help="what was found, cell by cell")
    parser.add_argument("--markdown", type=Path, help="write the table of all that was found to this file")
    parser.add_argument("--table", action="store_true", help="make nothing: write the table of the file of --json")
    parser.add_argument("--seconds", type=int, default=600, help="processor time that one rewrite may take")
    parser.add_argument("--gigabytes", type=int, default=8, help="address space that one rewrite may take")
    parser.add_argument("--commit", default="", help="commit of the program, to be noted in the table")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
