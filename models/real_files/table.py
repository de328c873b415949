"""The table of what was found, as text for people."""

from __future__ import annotations

import itertools
import platform
from typing import Any

import onnxruntime as ort

from bct_onnx.errors import TargetError
from bct_onnx.registry import PRESETS, TARGETS, complete
from bct_onnx.runtime.latency import cpu_features

Cells = dict[tuple[str, ...], dict[str, Any]]
"""By file, preset and target."""

_HEAD = """\
# Real files of public packages

Made by `python -m models.real_files --cache FOLDER --markdown models/results/real-files.md`; commit {commits}, ONNX
Runtime {runtime}, {machine}. Nothing of these packages is kept here.

Presets down, targets across. A cell: SQNR in dB of the worst output, all samples together, against the source in
float32, on inputs of the model's own kind (`models/real_files`); samples whose answer (text read, label, words found,
length of the sound) is the source's, of how many; times smaller. `-` for the SQNR: the sound has another length. A
letter is a refusal whose exit code and words stand below the table, `no` one of those at the end of this head. An empty
cell was not made. ONNX Runtime's CPU provider runs all, whatever their target. Where a target fixes sizes, inputs are
cut or repeated to these, for the source too.

Below a table, of cells since commit 7e0a287: seconds of processor time (imports apart) and peak MB of the rewrite for
`ort-cpu`; and of cells in which an answer is another, how many choices (a character, a word's beginning, a label)
turned of how many, by how much the source preferred its own choice to the one that came (at most), and by how much it
usually prefers its best to its second.

Refused whatever the file, before it is read (exit code 4):

{refusals}
"""


def refused(preset: str, target: str) -> str:
    """Why a target does not take a preset, whatever the model; empty where it does."""
    try:
        complete(preset, target)
    except TargetError as error:
        return " ".join(str(error).split())
    return ""


def line(cell: dict[str, Any]) -> str:
    """One cell with all that is known of it."""
    cost = f"{cell['seconds']:.0f} s, {cell['memory']:.0f} MB"
    if cell["exit"]:
        return f"exit {cell['exit']}: {cell['error']}; {cost}"
    return f"{_short(cell)}, {cost}{'; ' if _turned(cell) else ''}{_turned(cell)}"


def markdown(cells: Cells, files: dict[str, dict[str, Any]]) -> str:
    """All cells there are, a section for each file."""
    commits = ", ".join(sorted({cell["commit"] for cell in cells.values()} - {""})) or "unknown"
    machine = f"{platform.machine()}, {cpu_features().model}"
    parts = [_HEAD.format(commits=commits, runtime=ort.__version__, machine=machine, refusals=_refusals())]
    for name, entry in files.items():
        own = {key[1:]: cell for key, cell in cells.items() if key[0] == name}
        if own:
            parts.append(_section(name, entry, own))
    return "\n".join(parts)


def _refusals() -> str:
    """The refusals that need no file: of each target and reason the presets."""
    presets: dict[tuple[str, str], list[str]] = {}
    for target, preset in itertools.product(TARGETS, PRESETS):
        if reason := refused(preset, target):
            presets.setdefault((target, reason), []).append(preset)
    return "\n".join(f"- {target}: {', '.join(names)}: {reason}" for (target, reason), names in presets.items())


def _section(name: str, entry: dict[str, Any], cells: Cells) -> str:
    """A file: where it is from, its table, and what the cells have no room for."""
    package = f"{entry['registry']}'s {entry['package']} {entry['version']} ({entry['licence']})"
    parts = [f"## {name}\n", f"{entry['what'][:1].upper()}{entry['what'][1:]}. `{entry['path']}` of {package}.\n"]
    targets = [target for target in TARGETS if any(key[1] == target for key in cells)]
    refusals: dict[str, str] = {}
    parts += [f"| | {' | '.join(targets)} |", "|---" * (len(targets) + 1) + "|"]
    for preset in PRESETS:
        row = [
            "no" if refused(preset, target) else _in_table(cells.get((preset, target)), refusals) for target in targets
        ]
        if set(row) - {"no", ""}:
            parts.append(f"| {preset} | {' | '.join(row)} |")
    if "note" in entry:
        parts += ["", entry["note"].strip()]
    parts += ["", *_costs(cells), *_other_answers(cells), *_reasons(refusals)]
    return "\n".join(parts)


def _in_table(cell: dict[str, Any] | None, refusals: dict[str, str]) -> str:
    """A cell; a refusal is the letter of its reason in ``refusals``, which it is added to."""
    if cell is None:
        return ""
    if not cell["exit"]:
        return _short(cell).replace("|", "/")
    reason = f"exit {cell['exit']}: {cell['error']}"
    return refusals.setdefault(reason, _letter(len(refusals)))


def _short(cell: dict[str, Any]) -> str:
    if cell["fault"]:
        return f"does not run: {cell['fault']}"
    db = "-" if cell["sqnr_db"] is None else f"{cell['sqnr_db']:.1f} dB"
    return f"{db}, {cell['answers'][0]}/{cell['answers'][1]}, {cell['ratio']:.2f}x"


def _turned(cell: dict[str, Any]) -> str:
    choices = cell["turned"]
    if not choices or not choices["count"][0]:
        return ""
    count, total = choices["count"]
    return f"{count} of {total} choices turned, preferred by {choices['gap']:.2g} at most, usual {choices['usual']:.2g}"


def _costs(cells: Cells) -> list[str]:
    costs = [
        f"{preset} {cell['seconds']:.0f} s, {cell['memory']:.0f} MB"
        for (preset, target), cell in cells.items()
        if target == "ort-cpu" and not cell["exit"] and cell["seconds"] is not None
    ]
    return [f"Cost: {'; '.join(costs)}.\n"] if costs else []


def _other_answers(cells: Cells) -> list[str]:
    others = [
        f"- {preset} for {target}: {_turned(cell)}"
        for (preset, target), cell in cells.items()
        if not cell["exit"] and cell["answers"] and cell["answers"][0] < cell["answers"][1] and _turned(cell)
    ]
    return ["Other answers:\n", *others, ""] if others else []


def _reasons(refusals: dict[str, str]) -> list[str]:
    return [*(f"- {letter}: {reason}" for reason, letter in refusals.items()), ""] if refusals else []


def _letter(number: int) -> str:
    """A to Z, then A1 and so on."""
    return chr(ord("A") + number % 26) + (str(number // 26) if number >= 26 else "")
