"""What is being done just now, told from deep inside of long work to whoever listens.

with listening(lambda detail: ...):      # a rewrite does this around every pass, and around its check
    tell("run 3 of 16, input 1x3x64x200")
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how much of how much."""

Feeds = TypeVar("Feeds", bound=Mapping[str, Any])

_listener: ContextVar[Callable[[str], None] | None] = ContextVar("progress_listener", default=None)


@contextlib.contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Let `tell` call ``listener`` with its text."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(detail: str) -> None:
    """Say what is being done; nothing happens where nobody listens."""
    listener = _listener.get()
    if listener is not None:
        listener(detail)


def told(runs: Iterable[Feeds], total: int) -> Iterator[Feeds]:
    """``runs``, inputs of a model by name, each told as it is handed out; a ``total`` of 0 is not known.

    >>> with listening(print):
    ...     _ = list(told([{"x": np.zeros((1, 3, 8, 8))}], 1))
    run 1 of 1, 1x3x8x8
    """
    for number, feeds in enumerate(runs, 1):
        largest = max(map(np.shape, feeds.values()), key=np.prod, default=())
        count = f" of {total}" if total else ""
        shape = "x".join(map(str, largest))
        tell(f"run {number}{count}" + (f", {shape}" if shape else ""))
        yield feeds
