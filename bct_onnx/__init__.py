"""bct-onnx: blockwise compression of exported transformers, as a sequence of ONNX graph passes.

import bct_onnx

report = bct_onnx.rewrite("model.onnx", "bct-plus", options=bct_onnx.Options(output=Path("model.bct.onnx")))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bct_onnx.report import Report
    from bct_onnx.rewriting import Options, rewrite

__all__ = ["Options", "Report", "__version__", "rewrite"]
__version__ = "0.1.0"

_HOMES = {"Options": "bct_onnx.rewriting", "Report": "bct_onnx.report", "rewrite": "bct_onnx.rewriting"}


def __getattr__(name: str) -> Any:
    """Import the public names when they are asked for: the command line's help has to answer at once."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bct_onnx' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
