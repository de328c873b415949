"""How fast does a user of a client that embeds texts get vectors, from loading to the last, and how near to float32's?

    python -m models.clients.embedding sentence-transformers transformers.js-4-node --cache FOLDER \
        --checkpoint ALL_MINILM_FOLDER --markdown TABLE.md

makes the folders that are missing by the command that README names, asks the clients, each by the lines of a folder's
own card and with the client's own settings, and writes the table of all answers so far. What the clients need is what
`models.clients` says.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxruntime.quantization import QuantType, quantize_dynamic

from bct_onnx.exporting import Recipe, export
from bct_onnx.tasks.own_text import FILE
from models.clients import table

HERE = Path(__file__).parent
FP32, DYNAMIC = "fp32", "quantize_dynamic"
OURS = {"bct-plus": "ort-cpu", "web": "web"}
"""Target of each folder of ours."""

LAYOUTS = {"sentence-transformers": "onnx/model.onnx", "transformers.js": "onnx/model_quantized.onnx"}
"""Where each kind of client looks for a folder's model."""

CLIENTS = ("sentence-transformers", "transformers.js-4-node", "transformers.js-3-browser", "transformers.js-4-browser")

_HEAD = """# Clients that embed

Made by `python -m models.clients.embedding CLIENT ... --cache FOLDER --checkpoint FOLDER --markdown
models/results/embedding.md`; {machine}. The model is all-MiniLM-L6-v2, the folders of ours are those that
`bct-onnx rewrite CHECKPOINT -o FOLDER` writes for each client.

A client loads a folder and embeds the {count} texts of ours that calibrate, with its own settings: threads, batches. A
cell: seconds until the model is loaded, seconds for all texts (the least of some rounds in turn, and how many times
faster than float32), mean cosine of the vectors to float32's in the same client. `no`: it does not load the folder; why
stands below.
"""


def main() -> int:
    """Make the folders, ask the clients, write the table."""
    options = _options()
    texts = FILE.read_text(encoding="utf-8").splitlines()
    if options.checkpoint is not None:
        for layout in LAYOUTS:
            _make(options.cache / layout, layout, options.checkpoint, texts)
    for client in options.clients:
        answer = _asked(client, options)
        table.keep(options.cache, answer)
        print(json.dumps(answer), flush=True)
    if options.markdown is not None:
        options.markdown.write_text(markdown(table.read(options.cache), len(texts)), encoding="utf-8")
    return 0


def _make(home: Path, layout: str, checkpoint: Path, texts: list[str]) -> None:
    """A folder for each file, and what is asked of the clients."""
    for name, target in OURS.items():
        if not (home / name).exists():
            command = ["rewrite", str(checkpoint), "-o", str(home / name), "--target", target, "--layout", layout]
            subprocess.run([sys.executable, "-m", "bct_onnx", *command, "--quiet"], check=True)
    source = home / FP32 / LAYOUTS[layout]
    for name in (FP32, DYNAMIC):
        if (home / name).exists():
            continue
        shutil.copytree(home / "bct-plus", home / name, ignore=shutil.ignore_patterns("*.onnx"))
        if name == FP32:
            export(checkpoint, source, Recipe(exporter="optimum"))
        else:
            model = home / name / LAYOUTS[layout]
            quantize_dynamic(source, model, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
    material = {"files": [FP32, DYNAMIC, *OURS], "texts": texts}
    (home / "material.json").write_text(json.dumps(material), encoding="utf-8")


def _asked(client: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a client says, in a process of its own."""
    layout = next(layout for layout in LAYOUTS if client.startswith(layout))
    home, rounds = str((options.cache / layout).absolute()), str(options.rounds)
    command = ["node", str(HERE / "web" / "embedding.mjs"), client, home, rounds]
    if client == "sentence-transformers":
        command = [options.python, str(HERE / "python" / "embed_with_sentence_transformers.py"), home, rounds]
    run = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    answer: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return answer


def markdown(answers: Mapping[str, Any], count: int) -> str:
    """The page."""
    files = (FP32, DYNAMIC, *OURS)
    lines = [_HEAD.format(machine=table.machine(), count=count), "| client | " + " | ".join(files) + " |"]
    lines.append("|---" * (len(files) + 1) + "|")
    refusals: list[str] = []
    for client, answer in answers.items():
        rows = answer["rows"]
        lines.append(f"| {client} {answer['version']} | " + " | ".join(_cell(rows, file) for file in files) + " |")
        refusals += [f"- {client}, {file}: {row['why']}" for file, row in rows.items() if not row["loads"]]
    if refusals:
        lines += ["", "Not loaded:", "", *refusals]
    return "\n".join(lines) + "\n"


def _cell(rows: Mapping[str, Any], file: str) -> str:
    row = rows[file]
    if not row["loads"]:
        return "no"
    told = f"{row['load']:.2f} s, {row['seconds']:.2f} s"
    if file == FP32:
        return told
    return f"{told} ({rows[FP32]['seconds'] / row['seconds']:.2f}x), {row['cosine']:.4f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=", ".join(CLIENTS))
    parser.add_argument("--cache", type=Path, required=True, help="where folders and answers are kept")
    parser.add_argument("--checkpoint", type=Path, help="all-MiniLM-L6-v2's; makes the folders that are not there")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the Python client")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    if unknown := set(options.clients) - set(CLIENTS):
        parser.error(f"unknown clients: {', '.join(sorted(unknown))}")
    return options


if __name__ == "__main__":
    sys.exit(main())
