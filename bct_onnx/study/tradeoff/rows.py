"""The rows of a frontier: what to build for each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

from bct_onnx.errors import UsageError, nearest
from bct_onnx.pipeline import Pipeline
from bct_onnx.quant.scheme import BITS, SEARCHES, Scheme
from bct_onnx.study.peers import TOOLS, settings_alone
from bct_onnx.study.tradeoff.ablations import NEAREST, WITHOUT, combined, shift, uniform

GROUPS = ("fp32", "ours", "nearest", "shift", "others")
"""Kinds of rows, in the order of the table; behind them come those of ours without something."""

RATIOS = (4.0, 8.0, 10.0, 12.0, 14.4)
"""Times smaller by parameters, unless told otherwise."""

SHIFT_BITS = (4, 3, 2)


@dataclasses.dataclass(frozen=True)
class Job:
    """One row, and how to build it: by a pipeline, by another tool, or (neither) not at all.

    Attributes:
        name: Unique within a frontier.
        group: One of `GROUPS`, or ``without NAME``.
        passes: Pipeline text, calibration data and all.
        ratio: Times smaller by parameters that bits are allotted for; None leaves the pipeline as it is.
        row_widths: Whether rows of a table may get different bits.
        tool: One of `bct_onnx.study.peers.TOOLS`.
        setting: One of its settings as `settings_alone` names it; empty for the tool's best.
    """

    name: str
    group: str
    passes: str = ""
    ratio: float | None = None
    row_widths: bool = True
    tool: str = ""
    setting: str = ""


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which rows to build.

    Attributes:
        ratios: Of the rows of ours, and of what is left out of them; nearest takes the bits that come closest.
        only: Groups or tools; none for all groups.
        without: Names in `WITHOUT`.
    """

    ratios: tuple[float, ...] = RATIOS
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _known("--only", self.only, (*GROUPS, *TOOLS))
        _known("--without", self.without, tuple(WITHOUT))
        if any(not 1 < ratio < 32 for ratio in self.ratios):
            raise UsageError("ratios lie between 1 and 32", where="--ratio", why=f"given {self.ratios}")

    def has(self, group: str) -> bool:
        """Whether there are rows of this group."""
        return not self.only or group in self.only


def jobs(pipeline: Pipeline, selection: Selection) -> list[Job]:
    """All rows, in the order of the table.

    Args:
        pipeline: What ours is: a preset with the user's data in it.
        selection: Which rows.
    """
    groups: dict[str, Iterable[Job]] = {
        "fp32": [Job("fp32", "fp32")],
        "ours": _ours(pipeline, selection.ratios),
        "nearest": _nearest(pipeline, selection.ratios),
        "shift": _shift(pipeline),
    }
    rows: list[Job] = []
    for group in filter(selection.has, groups):
        rows += groups[group]
    rows += _others(selection)
    for name in selection.without:
        rows += _without(pipeline, selection.ratios, name)
    return rows


def _ours(pipeline: Pipeline, ratios: Sequence[float]) -> Iterator[Job]:
    for ratio in ratios:
        yield Job(f"ours {ratio:g}x", "ours", str(pipeline), ratio)


def _nearest(pipeline: Pipeline, ratios: Sequence[float]) -> Iterator[Job]:
    for bits in dict.fromkeys(map(bits_nearest, ratios)):
        yield Job(f"nearest {bits} bit", "nearest", str(combined(pipeline, NEAREST, uniform(bits))))


def _shift(pipeline: Pipeline) -> Iterator[Job]:
    for bits in SHIFT_BITS:
        for search in SEARCHES:
            yield Job(f"shift {bits} bit, {search}", "shift", str(combined(pipeline, shift(bits, search))))


def _others(selection: Selection) -> Iterator[Job]:
    for name, tool in TOOLS.items():
        if selection.has("others") or name in selection.only:
            if tool.best == "fastest":  # which says nothing of size and score
                yield from (Job(setting, "others", tool=name, setting=setting) for setting in settings_alone(tool))
            else:
                yield Job(name, "others", tool=name)


def _without(pipeline: Pipeline, ratios: Sequence[float], name: str) -> Iterator[Job]:
    change = WITHOUT[name]
    changed = change.apply(pipeline)
    if not change.has_place(pipeline):
        raise UsageError(f"there is no '{name}' to leave out", where="--without", why=f"the pipeline is {pipeline}")
    for ratio in ratios:
        title = f"ours {ratio:g}x without {name}"
        if change.is_planned:
            yield Job(title, f"without {name}", str(changed), ratio, change.row_widths)
        else:
            yield Job(title, f"without {name}", str(uniform(bits_nearest(ratio)).apply(changed)))


def bits_nearest(ratio: float) -> int:
    """Bits per code that come nearest to a ratio, scales of blocks included.

    >>> [bits_nearest(ratio) for ratio in RATIOS]
    [8, 4, 3, 3, 2]
    """
    return min(BITS, key=lambda bits: abs(math.log(ratio * Scheme(bits, 32).bits_per_weight(1024, 1024) / 32)))


def _known(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"there is no '{name}'", where=option, fix=nearest(name, known, "there are"))
