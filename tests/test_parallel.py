"""Work through executors: in order, few at a time, the same result, errors as they are, nobody left behind."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bct_onnx import parallel
from bct_onnx.errors import BctError, InputModelError
from bct_onnx.quant import Scheme, jobs
from bct_onnx.rewriting import Options, rewrite
from tests.quant.strategies import normal

NEAREST = "normalize,fuse-linear,quantize-embeddings,quantize-weights,clean-up"


def test_results_come_in_order_and_few_items_are_under_way() -> None:
    taken: list[int] = []
    turn = threading.Event()

    def items() -> Iterator[int]:
        for number in range(9):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        if number == 0:
            turn.wait(10)  # the first is done last
        turn.set() if number == 2 else None
        return number * number

    with ThreadPoolExecutor(3) as executor, parallel.through(executor, 3):
        results = parallel.in_order(work, items())
        assert next(results) == 0
        assert len(taken) == 3
        assert list(results) == [number * number for number in range(1, 9)]


def test_without_an_executor_it_is_a_map() -> None:
    assert list(parallel.in_order(str, iter([1, 2]))) == ["1", "2"]


def test_errors_of_the_work_are_those_of_the_caller_and_end_it() -> None:
    weight = normal(64, 4)
    weight[5, 1] = np.nan
    every = [jobs.Job(weight, Scheme(4, 32)) for _ in range(20)]
    with ThreadPoolExecutor(1) as executor, parallel.through(executor, 2), pytest.raises(InputModelError, match="NaN"):
        list(parallel.in_order(jobs.run, every))


def test_processes_give_the_same_bytes_and_their_end_is_told(bundled_model: Path, tmp_path: Path) -> None:
    alone, together = tmp_path / "alone.onnx", tmp_path / "together.onnx"
    rewrite(bundled_model, NEAREST, target="portable", options=Options(alone, check=False))
    before = multiprocessing.active_children()
    with parallel.workers(2) as executor:
        options = Options(together, check=False, executor=executor, under_way=3)
        rewrite(bundled_model, NEAREST, target="portable", options=options)
        with parallel.through(executor), pytest.raises(BctError, match="a worker ended"):
            list(parallel.in_order(os._exit, [1]))
    assert multiprocessing.active_children() == before
    assert alone.read_bytes() == together.read_bytes()


def test_an_interrupt_leaves_no_worker_behind() -> None:
    before = multiprocessing.active_children()
    with pytest.raises(KeyboardInterrupt), parallel.workers(2) as executor:
        assert executor is not None
        executor.submit(time.sleep, 60)
        raise KeyboardInterrupt
    deadline = time.monotonic() + 60  # no join: the executor's own thread waits for them too, and one of two is told
    while multiprocessing.active_children() != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert multiprocessing.active_children() == before


def test_workers_import_before_they_work() -> None:
    with parallel.workers(2, "wave") as executor:
        assert executor is not None
        assert executor.submit(eval, "'wave' in __import__('sys').modules").result()


def test_one_job_needs_no_workers() -> None:
    with parallel.workers(1) as executor:
        assert executor is None


@pytest.mark.cluster
def test_a_cluster_gives_the_same_bytes(bundled_model: Path, tmp_path: Path) -> None:
    from distributed import Client

    alone, together = tmp_path / "alone.onnx", tmp_path / "together.onnx"
    rewrite(bundled_model, NEAREST, target="portable", options=Options(alone, check=False))
    local = Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None)
    with local as client, client.get_executor() as executor:
        options = Options(together, check=False, executor=executor)
        rewrite(bundled_model, NEAREST, target="portable", options=options)
    assert alone.read_bytes() == together.read_bytes()
