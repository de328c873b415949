"""The table of what was found, as text for people."""

from __future__ import annotations

import itertools
import platform
from typing import Any

import onnxruntime as ort

from bct_onnx.registry import PRESETS, TARGETS
from bct_onnx.runtime.latency import cpu_features

Found = dict[str, dict[str, Any]]

_HEAD = """\
# Real files of public packages

Made by `python -m models.real_files --cache FOLDER --markdown models/results/real-files.md`; commit {commits}, ONNX
Runtime {runtime}, {machine}. Nothing of these packages is kept here.

A cell: SQNR in dB of the worst output, all samples together, against the source in float32, on inputs of the model's
own kind (`models/real_files`); samples whose answer (text read, label, words found, length of the sound) is the
source's, of how many; times smaller; seconds and peak MB of the rewrite, beside other programs. Or the exit code and
what was said. `-` for the SQNR: the sound has another length. ONNX Runtime's CPU provider runs all, whatever their
target.
"""


def line(cell: dict[str, Any]) -> str:
    """One cell."""
    if cell["exit"]:
        return f"exit {cell['exit']}: {cell['said']}"
    cost = f"{cell['ratio']:.2f}x, {cell['seconds']:.0f} s, {cell['memory']:.0f} MB"
    if cell["fault"]:
        return f"does not run: {cell['fault']}; {cost}"
    db = "-" if cell["sqnr_db"] is None else f"{cell['sqnr_db']:.1f} dB"
    return f"{db}, {cell['answers'][0]}/{cell['answers'][1]}, {cost}"


def markdown(found: Found, files: dict[str, dict[str, Any]]) -> str:
    """All cells there are, a section for each file."""
    commits = ", ".join(sorted({cell["commit"] for cell in found.values()} - {""})) or "unknown"
    machine = f"{platform.machine()}, {cpu_features().model}"
    parts = [_HEAD.format(commits=commits, runtime=ort.__version__, machine=machine)]
    for name, entry in files.items():
        keys = [f"{name}/{preset}/{target}" for preset, target in itertools.product(PRESETS, TARGETS)]
        known = [key for key in keys if key in found]
        if known:
            origin = (
                f"`{entry['path']}` of {entry['registry']}'s {entry['package']} {entry['version']} ({entry['licence']})"
            )
            parts.append(
                f"\n## {name}\n\n{entry['what'].capitalize()}. {origin}.\n\n| preset | target | |\n|---|---|---|"
            )
            parts += [_row(key, found[key]) for key in known]
    return "\n".join(parts) + "\n"


def _row(key: str, cell: dict[str, Any]) -> str:
    _, preset, target = key.split("/")
    return f"| {preset} | {target} | {line(cell).replace('|', '/')} |"
