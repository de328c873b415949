"""How much memory a session takes: resident memory of a process that does nothing but load a model and run it.

The process is a fresh one with numpy and ONNX Runtime alone, which has run a model of one node; what it held then is
taken off. ONNX
Runtime maps no weights, it reads them. What it frees after loading, such as the steps of decoding, stays resident until
the allocator gives it back: it is in ``loaded`` and not in ``in_use``.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser

from bct_onnx.errors import TargetError
from bct_onnx.graph.atomic import scratch


@dataclass(frozen=True)
class Memory:
    """Bytes of resident memory above those of the process without the model.

    Attributes:
        loaded: After loading.
        in_use: The same when the allocator has given back to the system what is free (glibc does so when asked).
        peak_load: The most while loading.
        peak_run: The most while running.
    """

    loaded: int
    in_use: int
    peak_load: int
    peak_run: int


_NOTHING = '<ir_version: 9, opset_import: ["": 18]> nothing (float[1] x) => (float[1] y) { y = Neg (x) }'

_SCRIPT = """
import ctypes, json, re, sys
import numpy, onnxruntime

def resident(field):
    return 1024 * int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

def restart_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")

model, inputs, threads, nothing = sys.argv[1:]
feeds = dict(numpy.load(inputs))
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = int(threads), 1, 4
first = onnxruntime.InferenceSession(nothing, options, providers=["CPUExecutionProvider"])
first.run(None, {"x": numpy.zeros(1, numpy.float32)})
before = resident("VmRSS")
restart_peak()
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
found = {"loaded": resident("VmRSS") - before, "peak_load": resident("VmHWM") - before}
if hasattr(ctypes.CDLL(None), "malloc_trim"):
    ctypes.CDLL(None).malloc_trim(0)
found["in_use"] = resident("VmRSS") - before
restart_peak()
for _ in range(2):
    session.run(None, {one.name: feeds[one.name] for one in session.get_inputs()})
found["peak_run"] = resident("VmHWM") - before
print(json.dumps(found))
"""


def is_measurable() -> bool:
    """Whether this system tells the resident memory of a process and lets its peak be started anew (Linux)."""
    return Path("/proc/self/clear_refs").exists()


def give_back() -> None:
    """Let the allocator give back to the system what is free, where it keeps that until it is asked (glibc)."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def measure_memory(model: Path, feeds: Mapping[str, np.ndarray[Any, Any]], *, threads: int = 1) -> Memory:
    """Load a model in a process of its own and run it twice on ``feeds``.

    Raises:
        TargetError: The process fails, for example because memory ran out.
    """
    with scratch("memory") as folder:
        file = folder / "inputs.npz"
        np.savez(file, **dict[str, Any](feeds))
        nothing = folder / "nothing.onnx"
        onnx.save(onnx.parser.parse_model(_NOTHING), nothing)
        command = [sys.executable, "-c", _SCRIPT, str(model), str(file), str(threads), str(nothing)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        why = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
        raise TargetError("the memory of the model could not be measured", where=str(model), why=why)
    return Memory(**json.loads(done.stdout))
