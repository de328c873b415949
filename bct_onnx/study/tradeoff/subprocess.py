"""Build in a process of its own: its memory is its own, and whatever ends it does not end the run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bct_onnx.errors import BctError
from bct_onnx.study.tradeoff.building import Built, Place, build, peak_memory
from bct_onnx.study.tradeoff.rows import Job

RESULT = "built.json"


def build_apart(job: Job, place: Place) -> Built:
    """As `bct_onnx.study.tradeoff.building.build`, in a new process; whatever goes wrong there is in the result."""
    folder = place.folder
    task = folder / "job.json"
    place_texts = {field: str(value) for field, value in dataclasses.asdict(place).items()}
    task.write_text(json.dumps({"job": job.as_dict(), "place": place_texts}), encoding="utf-8")
    log = folder / "log.txt"
    paths = os.pathsep.join(filter(None, sys.path))
    with log.open("wb") as output:
        command = [sys.executable, "-m", "bct_onnx.study.tradeoff", str(task)]
        temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
        environment = {**os.environ, "PYTHONPATH": paths, **temporary}
        with _ending(subprocess.Popen(command, stdout=output, stderr=output, env=environment)) as process:
            code = process.wait()
    result = folder / RESULT
    if result.is_file():
        return Built.of(json.loads(result.read_text(encoding="utf-8")))
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    ended = lines[-1] if lines else f"exit code {code}"
    if code < 0:
        ended = f"ended by signal {-code}"
    return Built(error=ended[:200])


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
    request = json.loads(task.read_text(encoding="utf-8"))
    where = request["place"]
    model, folder, cache = (Path(where[name]) for name in ("model", "folder", "cache"))
    job, start = Job(**request["job"]), time.perf_counter()
    try:
        built = build(job, Place(model, where["target"], where["calibrate"], folder, cache))
    except BctError as error:
        seconds = time.perf_counter() - start
        planning = 0.0 if job.ratio is None else seconds  # what was measured is kept for the next ratio
        built = Built(seconds=seconds, planning=planning, peak=peak_memory(), error=first_line(error))
    (folder / RESULT).write_text(json.dumps(built.as_dict()), encoding="utf-8")


def first_line(error: BctError) -> str:
    """What went wrong, and why, in a line of a table."""
    return ": ".join(filter(None, (error.what, error.why))).splitlines()[0][:200]
