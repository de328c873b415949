"""The one place that imports what only some commands need, so that its absence is told and not a traceback."""

from __future__ import annotations

import importlib
from typing import Any

from bct_onnx.errors import UsageError


def extra(module: str, of: str = "eval") -> Any:
    """Import a module that needs an extra.

    Args:
        module: Its name.
        of: The extra.

    Raises:
        UsageError: A package of the extra is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        raise UsageError(
            f"the package '{missing}' is not installed", why=str(error), fix=f"pip install 'bct-onnx[{of}]'"
        ) from error
