"""The table of clients: what each says of each file, kept in one JSON file and written as Markdown."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bct_onnx.runtime.latency import cpu_features
from models.clients.material import FP32, MODEL, SHAPES

ANSWERS = "answers.json"

_HEAD = """# Clients

Made by `python -m models.clients CLIENT ... --cache FOLDER --checkpoint FOLDER --markdown models/results/clients.md`,
for one client or several; {machine}. The model is all-MiniLM-L6-v2.

A cell: the largest difference of any number of the output from ONNX Runtime {native} native with the same file, at 1
x 16 and 8 x 64 tokens; times faster than the float32 file in the same client at 1 x 16 and at 8 x 64, by the least of
three to five interleaved rounds on one thread. Seven other programs ran on the two cores meanwhile: the times tell
twice as fast from as fast, no finer. An empty cell was not asked for; rows without times
were asked what loads and is right, at 1 x 16 (`--rounds 0`, and WebGPU). `no`: the client does not load the file; why
stands below.
Where values flow as codes, one on the edge between two takes the other where sums are rounded in another order, and
what follows moves by such steps. WebGPU is computed in software (SwiftShader): it tells that files load and are right,
not how fast they are.
"""


def read(folder: Path) -> dict[str, Any]:
    """All answers so far, by client."""
    file = folder / ANSWERS
    answers: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return answers


def keep(folder: Path, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Note what a client said; all answers."""
    answers = read(folder) | {answer["client"]: dict(answer)}
    (folder / ANSWERS).write_text(json.dumps(answers, indent=1), encoding="utf-8")
    return answers


def machine() -> str:
    """Processor and system, as a page names them."""
    cpu = cpu_features()
    return f"{cpu.model} ({cpu.architecture}, {', '.join(cpu.flags or ()) or 'flags unknown'}), {platform.system()}"


def markdown(answers: Mapping[str, Any], folder: Path, native: str) -> str:
    """The page."""
    files = list(dict.fromkeys(file for answer in answers.values() for file in answer["rows"]))
    lines = [_HEAD.format(machine=machine(), native=native), ""]
    sizes = {file: (folder / file / MODEL).stat().st_size / 1e6 for file in files}
    lines.append("| client | " + " | ".join(f"{file}, {sizes[file]:.1f} MB" for file in files) + " |")
    lines.append("|---" * (len(files) + 1) + "|")
    refusals: list[str] = []
    for client, answer in answers.items():
        rows = answer["rows"]
        cells = [_cell(rows, file, answer.get("timed", True)) for file in files]
        lines.append(f"| {client} {answer['version']} | " + " | ".join(cells) + " |")
        for file, row in rows.items():
            if not row["loads"]:
                why = row["why"].replace(f"{folder.absolute()}/", "")
                refusals.append(f"- {client}, {file}: {why}")
    browsers = sorted({answer["browser"] for answer in answers.values() if "browser" in answer})
    if browsers:
        lines += ["", f"Browsers: {', '.join(browsers)}, headless."]
    if refusals:
        lines += ["", "Not loaded:", "", *refusals]
    return "\n".join(lines) + "\n"


def _cell(rows: Mapping[str, Any], file: str, timed: bool) -> str:
    row, reference = rows.get(file), rows[FP32]
    if row is None:
        return ""
    if not row["loads"]:
        return "no"
    apart = f"{row['difference']:.1g}" if row["difference"] else "equal"
    if not timed:
        return apart
    if file == FP32:
        return f"{apart}; " + ", ".join(f"{row['ms'][case]:.0f} ms" for case in SHAPES)
    return f"{apart}; " + ", ".join(f"{reference['ms'][case] / row['ms'][case]:.2f}x" for case in SHAPES)
