"""The one place that imports what only evaluation needs, so that its absence is told and not a traceback."""

from __future__ import annotations

import importlib
from typing import Any

from bct_onnx.errors import UsageError


def extra(module: str) -> Any:
    """Import a module of the extra `eval`.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the package '{module.partition('.')[0]}' is not installed",
            why=str(error),
            fix="pip install 'bct-onnx[eval]'",
        ) from error
