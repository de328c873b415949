"""Work that is the same for many tensors, one after the other here, or through any executor.

    with through(executor):                          # rewrite() does this with Options.executor
        for result in in_order(function, items): ...      # in_parts, if items may be large

An executor is one of `concurrent.futures`, or anything that behaves alike: the one of a dask cluster, of Ray, of MPI.
Functions and items are plain enough to be pickled. Few items are under way at a time, so that memory stays flat, and
results come in the order of the items, so that they do not depend on who works how fast.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextvars import ContextVar
from typing import TypeVar

from bct_onnx import progress
from bct_onnx.errors import BctError

Item = TypeVar("Item")
Result = TypeVar("Result")

UNDER_WAY = 4
"""Items that an executor has at a time if nothing else is said: as many results may be in memory."""

_active: ContextVar[tuple[Executor, int] | None] = ContextVar("active_executor", default=None)


@contextlib.contextmanager
def through(executor: Executor | None, under_way: int = UNDER_WAY) -> Iterator[None]:
    """Let `in_order` work through ``executor``, with so many items at a time; None works here."""
    token = _active.set(None if executor is None else (executor, max(1, under_way)))
    try:
        yield
    finally:
        _active.reset(token)


def in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``map(function, items)`` through the active executor. Items are taken as they are needed.

    Raises:
        BctError: As ``function`` does; or a worker ended before its work was done.
    """
    active = _active.get()
    if active is None:
        yield from map(function, items)
        return
    executor, under_way = active
    waiting: deque[Future[Result]] = deque()
    source = iter(items)
    try:
        while True:
            while len(waiting) < under_way and (item := next(source, None)) is not None:
                waiting.append(executor.submit(function, item))
            if not waiting:
                return
            yield waiting.popleft().result()
    except BrokenExecutor as error:
        raise BctError(
            "a worker ended before its work was done",
            why=str(error),
            fix="use fewer --jobs: the machine may have run out of memory",
        ) from error
    finally:
        for future in waiting:
            future.cancel()


def in_parts(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    split: Callable[[Item], Sequence[Item]],
    join: Callable[[Item, Iterable[Result]], Result],
) -> Iterator[Result]:
    """`in_order` for items that may be large: each is split, and the results of its parts are joined as they come.

    >>> words = in_parts(str.upper, ["ab", "c"], list, lambda word, letters: "-".join(letters))
    >>> list(words)
    ['A-B', 'C']
    """
    taken: deque[tuple[Item, int]] = deque()

    def parts() -> Iterator[Item]:
        for item in items:
            pieces = split(item)
            taken.append((item, len(pieces)))
            yield from pieces

    results = in_order(function, parts())
    for number, first in enumerate(results, 1):
        item, count = taken.popleft()
        progress.tell(f"tensor {number}")
        yield join(item, itertools.chain([first], itertools.islice(results, count - 1)))


@contextlib.contextmanager
def workers(jobs: int, *modules: str) -> Iterator[Executor | None]:
    """Processes to work through, gone at the end of the block, however it ends; None for a single job.

    They start at once, and import some modules by name, while the caller goes on to what it does before it needs them.
    Processes, because most of the work is many short array operations, which threads do one at a time.
    """
    if jobs <= 1:
        yield None
        return
    before = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin, modules)
    try:
        executor.submit(int)  # the first item starts them all
        yield executor
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    executor.shutdown()


def _begin(*modules: str) -> None:
    """Leave Ctrl-C to the parent process, and end when it does, whatever has ended it; then import."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_for_parent, daemon=True).start()
    for module in modules:
        importlib.import_module(module)


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
