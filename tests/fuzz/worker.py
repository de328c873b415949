"""The process in which models are tried, as some of them end it: cases come in as lines, verdicts go out as lines."""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from pathlib import Path

MEMORY = 8 << 30
"""Bytes of address space: what absurd shapes ask for fails here rather than taking the machine's memory."""


def main() -> None:
    """Answer every line ``[seed, number, grown, kept, try_source, seconds]`` with stages and then a verdict.

    A case that takes more seconds of processor time ends the process with SIGPROF.
    """
    from tests.fuzz.cases import Case
    from tests.fuzz.grown import GrownCase
    from tests.fuzz.grown.judge import judge as judge_grown
    from tests.fuzz.judge import judge

    faulthandler.enable()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else prints, prints elsewhere
    with tempfile.TemporaryDirectory() as scratch:
        for line in sys.stdin:
            seed, number, grown, kept, try_source, seconds = json.loads(line)
            signal.setitimer(signal.ITIMER_PROF, seconds)
            folder = Path(scratch) / "case"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            if grown:
                verdict = judge_grown(GrownCase(seed, number), folder)
            else:
                case = Case(seed, number, None if kept is None else tuple(kept))
                verdict = judge(
                    case, folder, lambda stage: print(json.dumps(stage), file=answers), try_source=bool(try_source)
                )
            print(json.dumps(dataclasses.asdict(verdict)), file=answers)


if __name__ == "__main__":
    main()
