"""``python -m tests.fuzz --minutes 30 --seed 1``: try odd models for as long as wanted, and count how they end.

With ``--grown`` they are sound ones of many kinds, and results have to agree with them."""

from __future__ import annotations

import argparse
import collections
import itertools
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from tests.fuzz.cases import Case
from tests.fuzz.grown import GrownCase
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
    parser.add_argument("--grown", action="store_true", help="grow sound models instead of damaging a few")
    chosen = parser.parse_args()
    kind = GrownCase if chosen.grown else Case
    with Runner() as runner:
        if chosen.only is not None:
            return _one(runner, kind(chosen.seed, chosen.only), chosen.save)
        cases = (kind(chosen.seed, number) for number in itertools.count(chosen.first))
        return _many(runner, cases, chosen.minutes, chosen.save)


def _one(runner: Runner, case: Case | GrownCase, save: Path | None) -> int:
    verdict = runner.judge(case)
    print(f"{case}\n{verdict.kind}\n{verdict.detail}")
    if save is not None:
        _write(case, verdict, save)
    return verdict.failed


def _many(runner: Runner, cases: Iterable[Case | GrownCase], minutes: float, save: Path | None) -> int:
    kinds: collections.Counter[tuple[bool, str]] = collections.Counter()
    start = time.monotonic()
    for case in itertools.takewhile(lambda _: time.monotonic() - start < 60 * minutes, cases):
        verdict = runner.judge(case)
        kinds[verdict.failed, verdict.kind] += 1
        if verdict.failed and (isinstance(case, GrownCase) or kinds[True, verdict.kind] == 1):
            least = smallest(runner, case, verdict) if isinstance(case, Case) else case
            print(f"FAILED --seed {case.seed} --only {case.number}: {verdict.kind}\n  {least}", flush=True)
            if save is not None:
                _write(least, verdict, save)
    failed = sum(count for (bad, _), count in kinds.items() if bad)
    print(f"{kinds.total()} inputs in {(time.monotonic() - start) / 60:.1f} minutes, {failed} failed")
    for (bad, kind), count in kinds.most_common():
        print(f"{count:8d}  {'FAILED ' if bad else ''}{kind}")
    return failed > 0


def _write(case: Case | GrownCase, verdict: Verdict, save: Path) -> None:
    folder = save / f"{case.seed}-{case.number}"
    folder.mkdir(parents=True, exist_ok=True)
    case.write(folder)
    (folder / "about.txt").write_text(f"{case}\n{verdict.kind}\n\n{verdict.detail}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
