"""``python -m tests.fuzz --minutes 30 --seed 1``: try odd models for as long as wanted, and count how they end."""

from __future__ import annotations

import argparse
import collections
import sys
import time
from pathlib import Path

from tests.fuzz.cases import Case
from tests.fuzz.judge import Verdict
from tests.fuzz.running import Runner, smallest


def main() -> int:
    """Run and print; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long to go on")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other cases")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the number of the first case")
    parser.add_argument("--only", type=int, metavar="N", help="run this one case and say all about it")
    parser.add_argument("--save", type=Path, metavar="DIR", help="write each new kind of failure here")
    chosen = parser.parse_args()
    with Runner() as runner:
        if chosen.only is not None:
            return _one(runner, Case(chosen.seed, chosen.only), chosen.save)
        return _many(runner, chosen.seed, chosen.first, chosen.minutes, chosen.save)


def _one(runner: Runner, case: Case, save: Path | None) -> int:
    verdict = runner.judge(case)
    print(f"{case}\n{verdict.kind}\n{verdict.detail}")
    if save is not None:
        _write(case, verdict, save)
    return verdict.failed


def _many(runner: Runner, seed: int, first: int, minutes: float, save: Path | None) -> int:
    kinds: collections.Counter[tuple[bool, str]] = collections.Counter()
    start, number = time.monotonic(), first
    while time.monotonic() - start < 60 * minutes:
        case = Case(seed, number)
        verdict = runner.judge(case)
        kinds[verdict.failed, verdict.kind] += 1
        if verdict.failed and kinds[True, verdict.kind] == 1:
            case = smallest(runner, case, verdict)
            print(f"FAILED --seed {seed} --only {number}: {verdict.kind}\n  {case}", flush=True)
            if save is not None:
                _write(case, verdict, save)
        number += 1
    failed = sum(count for (bad, _), count in kinds.items() if bad)
    print(f"{number - first} inputs in {(time.monotonic() - start) / 60:.1f} minutes, {failed} failed")
    for (bad, kind), count in kinds.most_common():
        print(f"{count:8d}  {'FAILED ' if bad else ''}{kind}")
    return failed > 0


def _write(case: Case, verdict: Verdict, save: Path) -> None:
    folder = save / f"{case.seed}-{case.number}"
    folder.mkdir(parents=True, exist_ok=True)
    case.write(folder)
    (folder / "about.txt").write_text(f"{case}\n{verdict.kind}\n\n{verdict.detail}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
