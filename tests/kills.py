"""``python -m tests.kills --kills 200``: end rewrites at random moments; what is visible is whole, the next run tidies.

Half of the runs end between two of their own operations on files in the folder of the output (an audit hook counts
them), half at a random time. Runs are forked from one process that has imported everything, so that time goes into
rewrites. Results of a few kilobytes get a data file of their own here, as those above 1 GiB do.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bct_onnx import cli, registry, rewriting
from bct_onnx.graph import save
from tests.fuzz import models
from tests.graph import handmade

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
COMMAND = ("rewrite", "in.onnx", "-o", "out/out.onnx", "--keep-passes", "out/kept", "-q", "--no-check", "--passes")
OLD, NEW = "normalize,quantize-weights{bits=8}", "normalize,quantize-weights"

Content = dict[str, bytes]


@dataclasses.dataclass(frozen=True)
class Ended:
    """How one run was ended: by which signal, and after how many seconds or operations on files."""

    signal: signal.Signals
    seconds: float = 0.0
    operations: int = 0


def main() -> int:
    """Kill and look; 1 if anything was not as it has to be."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    save.EMBEDDED = 0
    assert registry and rewriting  # imported before anything is forked
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        return _run(random.Random(chosen.seed), chosen.kills)


def _run(rng: random.Random, kills: int) -> int:
    handmade.write(models.model("functions"), Path("in.onnx"))
    old, _, _ = _whole(OLD)
    new, seconds, operations = _whole(NEW)
    found: collections.Counter[str] = collections.Counter()
    problems = []
    for number in range(kills):
        before = old if rng.random() < 0.5 else {}
        number_of = rng.choice(SIGNALS)
        ended = Ended(number_of, seconds=rng.uniform(0, 1.1 * seconds))
        if rng.random() < 0.5:
            ended = Ended(number_of, operations=rng.randint(1, operations))
        seen, wrong = _one(before, new, ended)
        found[seen] += 1
        problems += [f"run {number}, {ended}, over {'an old result' if before else 'nothing'}: {one}" for one in wrong]
    print(f"{kills} runs ended, {operations} operations on files in each")
    for seen, count in found.most_common():
        print(f"{count:6d}  {seen}")
    print("\n".join(problems) or "no partial output was seen, and every next run left its own result alone")
    return bool(problems)


def _whole(passes: str) -> tuple[Content, float, int]:
    """What a run that nobody ends leaves, how long it takes, and how many operations on files it has."""
    _fill({})
    counted = Path("count")
    start = time.monotonic()
    assert _wait(_start(passes, lambda: _count(counted))) == 0
    return _content(), time.monotonic() - start, int(counted.read_text())


def _one(before: Content, new: Content, ended: Ended) -> tuple[str, list[str]]:
    """End one run and start the next: what was seen after the first, and what was wrong."""
    _fill(before)
    process = _start(NEW, lambda: _end_after(ended) if ended.operations else None)
    if not ended.operations:
        time.sleep(ended.seconds)
        os.kill(process, ended.signal)
    code = _wait(process)
    content = _content()
    hidden = sorted({name.split("/")[0].split(".")[1] for name in content if name.startswith(".")})
    seen = f"{ended.signal.name}: {_state(content, before, new)}"
    seen += f", leaving {' and '.join(hidden)}" if hidden else ""
    wrong = _wrong(content, before, new)
    if code not in (0, -ended.signal, 128 + ended.signal):
        wrong.append(f"exit code {code}")
    if hidden and ended.signal != signal.SIGKILL and code >= 0:
        wrong.append(f"left {hidden}")
    if _wait(_start(NEW)) != 0:
        wrong.append("the next run failed")
    elif _content() != new:
        wrong.append(f"after the next run: {sorted(_content())}")
    return seen, wrong


def _state(content: Content, before: Content, new: Content) -> str:
    model = content.get("out.onnx")
    if model is None:
        return "no result"
    return "the old result" if model == before.get("out.onnx") else "the new result"


def _wrong(content: Content, before: Content, new: Content) -> list[str]:
    """What is visible and neither the old nor the new result as a whole."""
    model = content.get("out.onnx")
    wrong = []
    if model is None and before:
        wrong.append("the old result is gone")
    for whole in (before, new):
        if model is not None and model == whole.get("out.onnx"):
            data = {name: data for name, data in whole.items() if name.endswith(".data") and "/" not in name}
            wrong += [f"{name} is not whole" for name in data if content.get(name) != data[name]]
            break
    else:
        wrong += ["out.onnx is not whole"] if model is not None else []
    kept = {name: data for name, data in content.items() if name.startswith("kept/")}
    wholes = [{name: data for name, data in whole.items() if name.startswith("kept/")} for whole in (before, new)]
    if kept and kept not in wholes:
        wrong.append("the folder of passes is not whole")
    return wrong


def _fill(content: Content) -> None:
    """Make the folder of the output anew with this in it."""
    shutil.rmtree("out", ignore_errors=True)
    Path("out").mkdir()
    for name, data in sorted(content.items()):
        place = Path("out", name)
        if name.endswith("/"):
            place.mkdir()
        else:
            place.write_bytes(data)


def _content() -> Content:
    """Every file in the folder of the output, and every folder with a slash behind its name."""
    found = {str(file.relative_to("out")): file for file in Path("out").rglob("*")}
    return {
        name if file.is_file() else f"{name}/": file.read_bytes() if file.is_file() else b""
        for name, file in found.items()
    }


def _start(passes: str, prepare: Callable[[], object] = lambda: None) -> int:
    """Start a rewrite in a process of its own, after ``prepare`` there, and return its number."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    prepare()
    os._exit(cli.main([*COMMAND, passes, "--force"]))


def _wait(process: int) -> int:
    """The exit code; negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _on_files(act: Callable[[], object]) -> None:
    """Call ``act`` at every operation on a file below the folder of the output."""
    folder = str(Path("out").absolute())

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if any(str(one).startswith((folder, "out/")) for one in arguments if isinstance(one, str | Path)):
            act()

    sys.addaudithook(hook)


def _count(file: Path) -> None:
    """Keep the number of operations in ``file``."""
    descriptor, number = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC), 0

    def count() -> None:
        nonlocal number
        number += 1
        os.pwrite(descriptor, str(number).encode(), 0)

    _on_files(count)


def _end_after(ended: Ended) -> None:
    """Make this process end itself at one of its operations on files."""
    left = ended.operations

    def end() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), ended.signal)

    _on_files(end)


if __name__ == "__main__":
    sys.exit(main())
