"""A model as it was before anything was lost, kept beside it for passes further down that ask for it.

Tensors are shared, so that a copy takes no room; values keep their names, so that what both compute can be compared.
"""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.course import Course

_KEY, _REBUILT = "bct_onnx.before", "bct_onnx.rebuilt"


def keep(model: ir.Model, *, rebuilt: bool = False) -> None:
    """Keep a copy of the model as it is now, where a pass further down needs it and none is kept yet.

    Args:
        model: The model, before it is changed.
        rebuilt: Whether parts of it go now, so that what is left has to learn anew.
    """
    if not _is_needed(model):
        return
    if rebuilt:
        model.graph.meta[_REBUILT] = True
    if _KEY not in model.graph.meta:
        model.graph.meta[_KEY] = model.clone()


def _is_needed(model: ir.Model) -> bool:
    """Whether a pass further down asks for the copy."""
    return any(following.needs_before for following in Course.of(model).following)


def is_rebuilt(model: ir.Model) -> bool:
    """Whether the model has lost parts since."""
    return _REBUILT in model.graph.meta


def of(model: ir.Model) -> ir.Model | None:
    """The copy that was kept; None where there is none."""
    copy = model.graph.meta.get(_KEY)
    if isinstance(copy, ir.Model):
        return copy
    return None


def forget(model: ir.Model) -> None:
    """Let go of the copy, unless a pass further down needs it too."""
    if not _is_needed(model):
        model.graph.meta.pop(_KEY, None)
