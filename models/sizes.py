"""Time and memory of a rewrite against the size of the model, beside copying the file and other tools.

    python models/sizes.py --gigabytes 1 4 8 [--many-files] [--against ort-dynamic --against ort-nbits4] [--jobs N]

Makes a synthetic model of each size (`synthetic.py`) in a temporary folder, works on it, and removes it. Each job runs
in a process of its own; memory is the most that it held (pages of mapped files included) beyond what the interpreter
takes with the same modules loaded. A copy is ``cp`` and ``sync`` of every file.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bct_onnx.graph.atomic import scratch

HERE = Path(__file__).resolve().parent
FREE = 20 << 30
"""Bytes of the disk that stay free."""

_IDLE = "import bct_onnx.rewriting, bct_onnx.cli.rewrite, onnxruntime, passes"
_OTHER = """
import sys, onnx
from pathlib import Path
from bct_onnx.study.peers import TOOLS
next(iter(TOOLS[sys.argv[1]].settings.values()))(onnx.load(sys.argv[2]), Path(sys.argv[3]), [])
"""


@dataclass(frozen=True)
class Cost:
    """What a process took: seconds by the clock, seconds of processors, and its largest memory in bytes."""

    seconds: float
    cpu: float
    memory: int
    failed: bool


def cost(command: list[str]) -> Cost:
    """Run a command to its end. Its output is dropped; the last line of its errors is printed if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=HERE.parent)
    errors = process.stderr.read() if process.stderr is not None else b""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        print((errors.decode(errors="replace").strip().splitlines() or ["no word"])[-1][:150], file=sys.stderr)
    seconds = time.perf_counter() - start
    return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss << 10, bool(process.returncode))


def measure(folder: Path, gigabytes: float, options: argparse.Namespace) -> None:
    """Print the lines of one size."""
    model, out = folder / "model.onnx", folder / "out" / "model.onnx"
    make = [sys.executable, str(HERE / "synthetic.py"), str(model), "--gigabytes", str(gigabytes)]
    if cost([*make, "--hidden", str(options.hidden), *(["--many-files"] if options.many_files else [])]).failed:
        return
    files = sorted(folder.iterdir())
    total = sum(file.stat().st_size for file in files)
    copy = min((_copy(files, folder / "copy") for _ in range(2)), key=lambda used: used.seconds)
    idle = cost([sys.executable, "-c", _IDLE]).memory
    _line(f"{total / 1e9:.2f} GB in {len(files)} files: copy", copy, copy, idle, total)
    rewrite = [sys.executable, "-m", "bct_onnx", "rewrite", str(model), "-o", str(out), "--preset", options.preset]
    commands = {f"bct-onnx {options.preset}": [*rewrite, "--no-check", "--quiet", "--jobs", str(options.jobs)]}
    commands |= {tool: [sys.executable, "-c", _OTHER, tool, str(model), str(out)] for tool in options.against}
    for name, command in commands.items():
        out.parent.mkdir()
        try:
            used = cost(command)
            written = sum(file.stat().st_size for file in out.parent.iterdir())
            _line(name, used, copy, idle, written)
        finally:
            _remove(out.parent)


def _copy(files: list[Path], to: Path) -> Cost:
    to.mkdir()
    used = cost(["sh", "-c", 'cp -- "$@" "$0" && sync "$0"/*', str(to), *map(str, files)])
    _remove(to)
    return used


def _line(name: str, used: Cost, copy: Cost, idle: int, written: int) -> None:
    times = f"{used.seconds:8.1f} s {used.cpu:8.1f} s CPU {used.seconds / copy.seconds:6.1f} x copy"
    memory = f"{max(0, used.memory - idle) / 1e9:7.2f} GB memory"
    print(f"{name:34}{times}{memory}{written / 1e9:8.3f} GB{' FAILED' if used.failed else ''}", flush=True)


def _remove(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Time and memory of a rewrite against the size of the model.")
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.0], help="sizes, in units of 10**9 bytes")
    parser.add_argument("--hidden", type=int, default=4096, help="width of the models")
    parser.add_argument("--many-files", action="store_true", help="a data file per tensor")
    parser.add_argument("--against", action="append", default=[], help="another tool, as in bct-onnx bench")
    parser.add_argument("--preset", default="w4a8-nearest")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path(), help="where to make the temporary folder")
    options = parser.parse_args(arguments)
    for gigabytes in options.gigabytes:
        with scratch("sizes", options.folder.absolute()) as home:
            state = os.statvfs(home)
            if state.f_bavail * state.f_frsize < 3e9 * gigabytes + FREE:
                parser.error(f"{gigabytes:g} GB need three times as much on the disk, and {FREE >> 30} GiB beyond")
            measure(home, gigabytes, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
