"""Build in a process of its own: its memory is its own, and whatever ends it does not end the run."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bct_onnx import registry
from bct_onnx.errors import BctError
from bct_onnx.frontier.building import Built, build
from bct_onnx.frontier.jobs import Job

RESULT = "built.json"


def build_apart(job: Job, model: Path, target: str, calibrate: str, folder: Path) -> Built:
    """As `bct_onnx.frontier.building.build`, in a new process; whatever goes wrong there is in the result.

    Args:
        job: The row.
        model: The float model.
        target: The runtime to lower for.
        calibrate: Text of the pass whose data tools get too; may be empty.
        folder: Where to write; must exist.
    """
    task = folder / "job.json"
    given = {"model": str(model.absolute()), "target": target, "calibrate": calibrate, "folder": str(folder)}
    task.write_text(json.dumps(given | {"job": job.as_dict()}), encoding="utf-8")
    log = folder / "log.txt"
    paths = os.pathsep.join(filter(None, sys.path))
    with log.open("wb") as output:
        command = [sys.executable, "-m", "bct_onnx.frontier", str(task)]
        temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
        environment = {**os.environ, "PYTHONPATH": paths, **temporary}
        with _ending(subprocess.Popen(command, stdout=output, stderr=output, env=environment)) as process:
            code = process.wait()
    result = folder / RESULT
    if result.is_file():
        return Built.of(json.loads(result.read_text(encoding="utf-8")))
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    ended = f"ended by signal {-code}" if code < 0 else lines[-1] if lines else f"exit code {code}"
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
    given = json.loads(task.read_text(encoding="utf-8"))
    folder = Path(given["folder"])
    calibrate = next(iter(registry.parse(given["calibrate"])), None) if given["calibrate"] else None
    try:
        built = build(Job(**given["job"]), Path(given["model"]), given["target"], calibrate, folder)
    except BctError as error:
        built = Built(error=" ".join(filter(None, (error.what, error.why))).splitlines()[0][:200])
    (folder / RESULT).write_text(json.dumps(built.as_dict()), encoding="utf-8")
