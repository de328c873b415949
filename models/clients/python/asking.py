"""Asks a Python client: does each file load, how far is it from ONNX Runtime native, how long does it take?

Run by the interpreter that has the client, which need not have bct-onnx: nothing but numpy is used besides.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[dict[str, np.ndarray]], np.ndarray]


def answer(client: str, package: str, open_file: Callable[[Path, str], Run]) -> None:
    """Ask a client about all files and print the answer as JSON.

    Args:
        client: Its name in the table.
        package: The distribution whose version counts.
        open_file: Given the folder of a file and the file's path in it, gives what runs the model: inputs
            to its first output.
    """
    home, rounds = Path(sys.argv[1]), int(sys.argv[2])
    told = json.loads((home / "material.json").read_text(encoding="utf-8"))
    rows, running = dict[str, Any](), dict[str, Run]()
    for file in told["files"]:
        with told(rows, file), contextlib.redirect_stdout(sys.stderr):
            running[file] = open_file(home / file, "onnx/model_quantized.onnx")
            rows[file] = {"loads": True, "difference": 0.0, "ms": {}}
    for case, inputs in told["cases"].items():
        feeds = {name: np.array(value["data"], np.int64).reshape(value["dims"]) for name, value in inputs.items()}
        for file in list(running):
            with told(rows, file):
                output = np.asarray(running[file](feeds), np.float32)
                expected = np.fromfile(home / "native" / f"{file}.{case}.bin", np.float32)
                apart = float(np.abs(output.ravel() - expected).max())
                rows[file]["difference"] = max(rows[file]["difference"], apart)
            if not rows[file]["loads"]:
                del running[file]
        if rounds:
            for file, least in _times(running, feeds, rounds).items():
                rows[file]["ms"][case] = least
    print(json.dumps({"client": client, "version": importlib.metadata.version(package), "rows": rows}))


@contextlib.contextmanager
def told(rows: dict[str, Any], file: str) -> Any:
    """A failure of a client is an answer."""
    try:
        yield
    except Exception as error:  # whatever a client raises is what the table says of it
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        rows[file] = {"loads": False, "why": lines[0][:300]}


def _times(running: dict[str, Run], feeds: dict[str, np.ndarray], rounds: int) -> dict[str, float]:
    """The least of some rounds in milliseconds; each round starts with another file."""
    names, times = list(running), {name: [float("inf")] for name in running}
    for number in range(rounds):
        for at in range(len(names)):
            name = names[(at + number) % len(names)]
            start = time.perf_counter()
            running[name](feeds)
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: min(each) for name, each in times.items()}
