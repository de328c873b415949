"""What no run ends with in silence: nothing done, a larger file, a result that has nothing to do with its source."""

from __future__ import annotations

from collections.abc import Sequence

from bct_onnx.errors import GateError
from bct_onnx.report import Report, Step
from bct_onnx.runtime.parity import Parity

FLOOR_DB, FLOOR_CORRELATION = -3.0, 0.2
"""What every output has to keep. An unrelated output of the same power has -3 dB, and no correlation beyond what the
means of its columns give; weights of 2 bits, rounded to nearest, are the coarsest of any use and keep about 0.7 dB."""

GROWTH = 1 << 16
"""Bytes that operators and functions of a result may take beyond the size of its source."""

ACCEPT = "--accept writes it all the same"


def changed(steps: Sequence[Step], where: str) -> None:
    """Something was changed, and compressed where that was asked for.

    Raises:
        GateError: Nothing was.
    """
    compressing = [step for step in steps if step.stage.compresses]
    if not any(step.sites for step in steps):
        raise _nothing("nothing was changed", steps, where, "see 'bct-onnx list passes' for what each pass looks for")
    if compressing and not any(step.sites for step in compressing):
        fix = "'--preset lift' fuses without compressing"
        raise _nothing("nothing was compressed", compressing, where, fix)


def _nothing(problem: str, steps: Sequence[Step], where: str, fix: str) -> GateError:
    reasons: dict[str, None] = {}
    for step in steps:
        reasons |= dict.fromkeys(declined.reason for declined in step.declined)
    return GateError(problem, where=where, why="; ".join(reasons) or "no pass found a place to work on", fix=fix)


def smaller(report: Report, *, accept: bool) -> None:
    """A file that was to be compressed is not larger than its source, but for what operators take.

    Raises:
        GateError: It is.
    """
    before, after = report.file_bytes
    compressing = any(step.stage.compresses for step in report.steps)
    if compressing and after > before + GROWTH and not accept:
        why = f"{before:,} bytes became {after:,}"
        raise GateError("the result is larger than its source", why=why, fix=f"try other passes; {ACCEPT}")


def related(parity: Parity, *, accept: bool, engine: str = "") -> None:
    """Every output that varies with the inputs has to do with the source's.

    Args:
        parity: Of the result's outputs with the source's.
        accept: Take it all the same.
        engine: The runtime that gave them, where it is another than ONNX Runtime.

    Raises:
        GateError: One has not.
    """
    for name, output in parity.telling.items():
        if not accept and (why := _unrelated(output)):
            where = f"output '{name}'" + (f" in {engine}" if engine else "")
            fix = f"try --calibrate with your own data, --preset w4a8 or w8a8; {ACCEPT}"
            raise GateError("the result has nothing to do with its source", where=where, why=why, fix=fix)


def _unrelated(parity: Parity) -> str:
    if parity.sqnr_db < FLOOR_DB:
        return f"SQNR {parity.sqnr_db:.1f} dB, less than {FLOOR_DB:g}: it is further away than zeros are"
    if parity.correlation is not None and parity.correlation < FLOOR_CORRELATION:
        return f"what varies of it has correlation {parity.correlation:.2f}, less than {FLOOR_CORRELATION:g}"
    return ""
