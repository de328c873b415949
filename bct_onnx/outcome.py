"""What running a result says of it: it loads, its outputs are close, how fast it is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import onnx_ir as ir

from bct_onnx.check import Check
from bct_onnx.errors import TargetError
from bct_onnx.runtime.session import session
from bct_onnx.transfer import gzipped


def outcome(check: Check, result: Path | ir.Model) -> dict[str, Any]:
    """Load the result in ONNX Runtime and measure it; the fields of a `Report` that come from running models.

    Raises:
        GateError: Outputs have other shapes than the input model's.
        TargetError: ONNX Runtime cannot load or run the result.
    """
    if check.skipped:
        if check.loads:
            session(result, settings=check.settings)
        return {"unchecked": check.skipped}
    start = time.perf_counter()
    candidate = session(result, settings=check.settings)
    loaded = time.perf_counter() - start
    parity = check.parity(check.opened(result) if check.random else candidate)
    if not parity.finite:
        raise TargetError("the result gives NaN or infinity where the input model does not")
    return {
        "parity": parity,
        "timings": check.timings(candidate),
        "load_seconds": (check.load_seconds, loaded),
        "transfer_bytes": gzipped(result) if isinstance(result, Path) else None,
    }
