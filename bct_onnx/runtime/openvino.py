"""A model in OpenVINO itself, where the extra ``bct-onnx[openvino]`` is installed: run like a session, on one thread.

ONNX Runtime computes files for OpenVINO too, but not as fast: what it takes for one says nothing of the other.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from bct_onnx.errors import InputModelError, TargetError, UsageError
from bct_onnx.runtime.session import loadable, short_message

EXTRA = "pip install 'bct-onnx[openvino]'"


class Argument(NamedTuple):
    """An input or output, which OpenVINO knows by several names: the first."""

    name: str


class OpenVinoSession:
    """A compiled model with the part of ONNX Runtime's session that runs and times it.

    Args:
        model: A file, or a model in memory below 2 GiB.
        threads: Within the whole model; 0 leaves the number to OpenVINO.

    Raises:
        InputModelError: There is no such file.
        UsageError: The extra is not installed, or the model in memory is too large.
        TargetError: OpenVINO cannot read or compile the model.
    """

    def __init__(self, model: str | Path | ir.Model, threads: int = 1) -> None:
        if not is_installed():
            raise UsageError("OpenVINO is not installed", fix=EXTRA)
        import openvino

        if isinstance(model, str | Path) and not Path(model).is_file():
            raise InputModelError("no such model file", where=str(model), fix="check the path")
        settings = {"INFERENCE_NUM_THREADS": threads} if threads else {}
        core = openvino.Core()
        try:
            read = core.read_model(loadable(model))
            self._compiled = core.compile_model(read, "CPU", {"PERFORMANCE_HINT": "LATENCY", **settings})
        except RuntimeError as error:
            raise TargetError(
                f"OpenVINO {version()} cannot compile the model", where=_where(model), why=_reason(error)
            ) from error
        self._inputs = [Argument(each.get_any_name()) for each in self._compiled.inputs]

    def get_inputs(self) -> Sequence[Argument]:
        """The inputs in order."""
        return self._inputs

    def run(
        self, names: Sequence[str] | None, feeds: Mapping[str, np.ndarray[Any, Any]], options: object = None
    ) -> list[np.ndarray[Any, Any]]:
        """The outputs of these names, or all in declared order, arrays of their own; ``options`` mean nothing here.

        Raises:
            TargetError: OpenVINO fails, or has no output of a name.
        """
        try:
            outputs = self._compiled.outputs if names is None else list(map(self._compiled.output, names))
            results = self._compiled(dict(feeds))
        except RuntimeError as error:
            raise TargetError(f"OpenVINO {version()} cannot run the model", why=_reason(error)) from error
        return [np.array(results[output]) for output in outputs]


def is_installed() -> bool:
    """Whether OpenVINO can be imported here."""
    return importlib.util.find_spec("openvino") is not None


def version() -> str:
    """OpenVINO's version, without its build."""
    import openvino

    return str(openvino.__version__).partition("-")[0]


def _where(model: str | Path | ir.Model) -> str:
    if isinstance(model, ir.Model):
        return f"graph '{model.graph.name}'"
    return str(model)


def _reason(error: RuntimeError) -> str:
    """What OpenVINO says without the places in its own source.

    >>> _reason(RuntimeError("Check 'x' failed at src/a.cpp:1:\\nFrontEnd API failed\\nno rule for 'A'"))
    "no rule for 'A'"
    """
    lines = list(filter(None, map(str.strip, str(error).splitlines())))
    useful = [line for line in lines if "failed" not in line and not line.startswith("Exception from")]
    return short_message(RuntimeError("; ".join(useful[:3]) or str(error)))
