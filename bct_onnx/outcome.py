"""What running a result says of it: it loads, its outputs are close, how fast it is; in the target's runtime too."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import onnx_ir as ir

from bct_onnx.errors import TargetError
from bct_onnx.reference import Reference
from bct_onnx.runtime import openvino
from bct_onnx.runtime.session import session
from bct_onnx.transfer import gzipped


def outcome(reference: Reference, result: Path | ir.Model, engine: str = "") -> dict[str, Any]:
    """Load the result in ONNX Runtime and measure it; the fields of a `Report` that come from running models.

    Args:
        reference: The input model and its outputs on samples.
        result: What was made of it.
        engine: The target's own runtime, in which outputs and times are taken too if it is installed.

    Raises:
        GateError: Outputs have other shapes than the input model's.
        TargetError: ONNX Runtime, or the engine, cannot load or run the result.
    """
    if reference.skipped:
        if reference.loads:
            session(result, settings=reference.settings)
        return {"unchecked": reference.skipped}
    start = time.perf_counter()
    candidate = session(result, settings=reference.settings)
    loaded = time.perf_counter() - start
    parity = reference.parity(reference.opened(result) if reference.random else candidate)
    if not parity.finite:
        raise TargetError("the result gives NaN or infinity where the input model does not")
    figures = {
        "parity": parity,
        "load_seconds": (reference.load_seconds, loaded),
        "transfer_bytes": gzipped(result) if isinstance(result, Path) else None,
    }
    if engine and openvino.is_installed() and not reference.random:
        return figures | _in_openvino(reference, result)
    return figures | {"timings": reference.timings(candidate)}


def _in_openvino(reference: Reference, result: Path | ir.Model) -> dict[str, Any]:
    """Outputs of the result in OpenVINO, and times of both models there; none of a source that it does not take."""
    start = time.perf_counter()
    candidate = openvino.OpenVinoSession(result)
    loaded = time.perf_counter() - start
    entries = {
        "elsewhere": reference.against(reference.outputs(candidate)),
        "timed_in": f"OpenVINO {openvino.version()}",
    }
    try:
        start = time.perf_counter()
        source = openvino.OpenVinoSession(reference.runnable)
        seconds = time.perf_counter() - start
        return entries | {"timings": reference.timings(candidate, source), "load_seconds": (seconds, loaded)}
    except TargetError as error:
        return entries | {"timings": (), "load_seconds": None, "untimed": error.why}
