"""A model as it was before anything was lost, kept beside it for passes further down that ask for it.

Tensors are shared, so that a copy takes no room; values keep their names, so that what both compute can be compared.
"""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.course import Course

_KEY = "bct_onnx.before"


def keep(model: ir.Model) -> None:
    """Keep a copy of the model as it is now, where a pass further down needs it and none is kept yet."""
    needed = any(following.needs_before for following in Course.of(model).following)
    if needed and _KEY not in model.graph.meta:
        model.graph.meta[_KEY] = model.clone()


def of(model: ir.Model) -> ir.Model | None:
    """The copy that was kept; None where there is none."""
    copy = model.graph.meta.get(_KEY)
    return copy if isinstance(copy, ir.Model) else None


def forget(model: ir.Model) -> None:
    """Let go of the copy."""
    model.graph.meta.pop(_KEY, None)
