"""Try clients: ``python -m models.clients CLIENT ... --cache FOLDER``; see the package's text for what they need."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime

from models.clients import table
from models.clients.material import OURS, make

HERE = Path(__file__).parent
JAVASCRIPT = (
    "onnxruntime-node",
    "onnxruntime-web-wasm",
    "onnxruntime-web-default",
    "onnxruntime-web-webgpu",
    "transformers.js-3-node",
    "transformers.js-4-node",
    "transformers.js-3-browser",
    "transformers.js-4-browser",
    "transformers.js-4-webgpu",
)
PYTHON = {
    "optimum": "with_optimum.py",
    "sentence-transformers": "with_sentence_transformers.py",
    "fastembed": "with_fastembed.py",
    "openvino": "with_openvino.py",
}
# Their GPU is a program here: they are asked what loads and is right, on the smaller input.
UNTIMED = ("onnxruntime-web-webgpu", "transformers.js-4-webgpu")


def main() -> int:
    """Make the files, ask the clients, write the table."""
    options = _options()
    if options.checkpoint is not None:
        make(options.cache, options.checkpoint, options.files)
    for client in options.clients:
        answer = _asked(client, options)
        answer["timed"] = client not in UNTIMED and options.rounds > 0
        table.keep(options.cache, answer)
        print(json.dumps(answer), flush=True)
    if options.markdown is not None:
        content = table.markdown(table.read(options.cache), options.cache, onnxruntime.__version__)
        options.markdown.write_text(content, encoding="utf-8")
    return 0


def _asked(client: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a client says, in a process of its own."""
    rounds = "0" if client in UNTIMED else str(options.rounds)
    if client in PYTHON:
        command = [options.python, str(HERE / "python" / PYTHON[client]), str(options.cache.absolute()), rounds]
    else:
        command = ["node", str(HERE / "web" / "clients.mjs"), client, str(options.cache.absolute()), rounds]
    run = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    answer: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return answer


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=", ".join([*JAVASCRIPT, *PYTHON]))
    parser.add_argument("--cache", type=Path, required=True, help="where files and answers are kept")
    parser.add_argument("--checkpoint", type=Path, help="all-MiniLM-L6-v2's folder; makes the files that are not there")
    parser.add_argument("--files", nargs="*", default=list(OURS), choices=list(OURS))
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the Python client")
    parser.add_argument("--rounds", type=int, default=20, help="0 asks what loads and is right, at 1 x 16")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    if unknown := set(options.clients) - {*JAVASCRIPT, *PYTHON}:
        parser.error(f"unknown clients: {', '.join(sorted(unknown))}")
    return options


if __name__ == "__main__":
    sys.exit(main())
