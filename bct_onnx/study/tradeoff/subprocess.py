"""Build in a process of its own: its memory is its own, and whatever ends it does not end the run."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bct_onnx.errors import BctError
from bct_onnx.study.peers import Built
from bct_onnx.study.tradeoff.building import Place, build, peak_memory
from bct_onnx.study.tradeoff.rows import Job

RESULT = "built.pickle"


def build_apart(job: Job, place: Place) -> Built:
    """As `bct_onnx.study.tradeoff.building.build`, in a new process; whatever goes wrong there is in the result."""
    task, log, result = map(place.folder.joinpath, ("job.pickle", "log.txt", RESULT))
    task.write_bytes(pickle.dumps((job, place)))
    command = [sys.executable, "-m", "bct_onnx.study.tradeoff", str(task)]
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(place.folder))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **temporary}
    with (
        log.open("wb") as output,
        _ending(subprocess.Popen(command, stdout=output, stderr=output, env=environment)) as process,
    ):
        code = process.wait()
    if result.is_file():
        built: Built = pickle.loads(result.read_bytes())
        return built
    if code < 0:
        return Built(error=f"ended by signal {-code}")
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return Built(error=lines[-1][:200] if lines else f"exit code {code}")


@contextlib.contextmanager
def _ending(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """No process is left behind, whatever happens."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def work(task: Path) -> None:
    """The other side: read a task, build, and write the result beside it."""
    job, place = pickle.loads(task.read_bytes())
    start = time.perf_counter()
    try:
        built = build(job, place)
    except BctError as error:
        seconds = time.perf_counter() - start
        planning = 0.0 if job.ratio is None else seconds  # what was measured is kept for the next ratio
        built = Built(seconds=seconds, planning=planning, peak=peak_memory(), error=first_line(error))
    (place.folder / RESULT).write_bytes(pickle.dumps(built))


def first_line(error: BctError) -> str:
    """What went wrong, and why, in a line of a table."""
    return ": ".join(filter(None, (error.what, error.why))).splitlines()[0][:200]
