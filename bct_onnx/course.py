"""The run that a pass is part of, for those few that look further than the model: what follows, and what is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from bct_onnx.base import Pass

_KEY = "bct_onnx.course"


def quantizes(passes: Iterable[Pass]) -> bool:
    """Whether any of some passes makes codes."""
    return any(graph_pass.stage.quantizes for graph_pass in passes)


@dataclasses.dataclass(frozen=True)
class Course:
    """What a pass may know of the run it is part of.

    Attributes:
        passes: All passes of the run.
        at: Number of the pass that runs now.
        parameters: Of the model as it came, each counted once; 0 where that is not known.
        source: The model's file; None for a model in memory.
        cache: Folder in which a pass may keep what takes long to measure; None keeps nothing.
        unfinished: File beside the output in which a pass may keep what it has got so far; None keeps nothing.
        resumes: Whether such a pass goes on with what an earlier run has left there.
    """

    passes: tuple[Pass, ...] = ()
    at: int = 0
    parameters: int = 0
    source: Path | None = None
    cache: Path | None = None
    unfinished: Path | None = None
    resumes: bool = False

    @property
    def following(self) -> tuple[Pass, ...]:
        """The passes that run after this one."""
        return self.passes[self.at + 1 :]

    @property
    def finds_codes(self) -> bool:
        """Whether all codes came with the model: no pass of the run makes any. Then they are part of what it means."""
        return bool(self.passes) and not quantizes(self.passes)

    def show(self, model: ir.Model) -> None:
        """Let the next pass on ``model`` find this."""
        model.graph.meta[_KEY] = self

    @classmethod
    def of(cls, model: ir.Model) -> Course:
        """The course that a model is on; one of a single pass where nothing was said of it."""
        course = model.graph.meta.get(_KEY)
        if isinstance(course, Course):
            return course
        return cls()
