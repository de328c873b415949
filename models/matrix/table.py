"""What was found, as markdown: a row per family, totals, and the reasons of what is no pass."""

from __future__ import annotations

import collections
import itertools
import re
from collections.abc import Iterable
from typing import Any

from models.matrix.exports import NOT_ASKED
from models.matrix.judge import PRESETS, TOOLS_BESIDE, bound

Found = dict[str, dict[str, Any]]
"""Two tables: ``exports`` (``family/exporter-dtype`` to an error, or nothing) and ``cells`` (the same with ``/preset``
to a verdict)."""

NAMES = {"ort-dynamic": "`quantize_dynamic`", "ort-nbits4": "`MatMulNBits` 4 bit"}


def markdown(found: Found) -> str:
    """The whole section."""
    return "\n\n".join(["\n".join(_totals(found)), "\n".join(_families(found)), "\n".join(_reasons(found))]) + "\n"


def _totals(found: Found) -> Iterable[str]:
    yield "| | cells | pass | refused | failed | bound, dB | median SQNR, dB |"
    yield "|---|---|---|---|---|---|---|"
    types = dict.fromkeys(name.split("/")[1].rsplit("-", 1)[1] for name in found["exports"])
    for dtype, how in itertools.product(types, (*PRESETS, *TOOLS_BESIDE)):
        cells = [cell for name, cell in found["cells"].items() if name.endswith(f"-{dtype}/{how}")]
        if not cells:
            continue
        count = collections.Counter(cell["status"] for cell in cells)
        levels = sorted(cell["sqnr_db"] for cell in cells if cell["status"] == "pass")
        median = f"{levels[len(levels) // 2]:.0f}" if levels else ""
        median = "exact" if median == "999" else median
        passed = f"{count['pass']} ({100 * count['pass'] / len(cells):.1f} %)"
        yield (
            f"| {dtype}, {NAMES.get(how, f'`{how}`')} | {len(cells)} | {passed} | {count['refused']} "
            f"| {count['failed']} | {bound(how, dtype):.0f} | {median} |"
        )


def _families(found: Found) -> Iterable[str]:
    columns = list(dict.fromkeys(name.split("/")[1] for name in found["exports"]))
    yield f"| | {' | '.join(column.replace('-fp32', '') for column in columns)} | {' | '.join(NAMES.values())} |"
    yield "|---" * (1 + len(columns) + len(NAMES)) + "|"
    for family in dict.fromkeys(name.split("/")[0] for name in found["exports"]):
        ours = [_summary(found, f"{family}/{column}") for column in columns]
        theirs = [_count(found, family, tool) for tool in NAMES]
        yield f"| {family} | {' | '.join([*ours, *theirs])} |"


def _summary(found: Found, export: str) -> str:
    """``ok`` where every preset passes, ``-`` where there is no such export, ``!`` where the exporter fails."""
    error = found["exports"].get(export)
    if error:
        return "-" if error in NOT_ASKED else "!"
    cells = {how: found["cells"][f"{export}/{how}"] for how in PRESETS if f"{export}/{how}" in found["cells"]}
    wrong = [f"{how} {cell['status']}" for how, cell in cells.items() if cell["status"] != "pass"]
    return ", ".join(wrong) or ("ok" if cells else "")


def _count(found: Found, family: str, how: str) -> str:
    cells = [cell for name, cell in found["cells"].items() if name.startswith(f"{family}/") and name.endswith(how)]
    passed = sum(cell["status"] == "pass" for cell in cells)
    return f"{passed} of {len(cells)}" if cells else ""


def _reasons(found: Found) -> Iterable[str]:
    yield "| who | why | where |"
    yield "|---|---|---|"
    groups: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for name, cell in found["cells"].items():
        if cell["status"] != "pass":
            groups[
                NAMES.get(how := name.rsplit("/", 1)[1], how), f"{cell['status']}: {_general(cell['reason'])}"
            ].append(name.rsplit("/", 1)[0])
    for name, error in found["exports"].items():
        if error and error not in NOT_ASKED:
            exporter = name.split("/")[1].rsplit("-", 1)[0]
            groups[f"{exporter} (exporter)", _general(error)].append(name)
    rare = 0
    for (who, why), names in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        if len(names) == 1 and who.endswith("(exporter)"):
            rare += 1
            continue
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        yield f"| {who} | {why} | {shown} |"
    if rare:
        yield f"| exporters | other errors, each of one export | {rare} exports |"


def _general(reason: str) -> str:
    """A reason without what differs from model to model."""
    text = re.sub(r"^(\w*model\w*|model): ", "", reason.replace("|", "/"))
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "…", text)
    text = re.sub(r"\d+\.\d+ dB", "… dB", text)
    text = re.sub(r"\x1b\[\d+m", "", text)  # colours
    text = re.sub(r" of input parameter \(.*|; Could not find an implementation.*", "", text)  # the first one is enough
    return text if len(text) <= 160 else f"{text[:157]}..."
