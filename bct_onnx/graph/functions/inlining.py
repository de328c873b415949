"""The bodies of functions put where they are called."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.passes import common

from bct_onnx.errors import InputModelError


def inline(model: ir.Model, chosen: Callable[[ir.Function], bool] = lambda function: True) -> None:
    """Inline functions, all or those that are chosen, in place.

    Raises:
        InputModelError: They call each other in a circle, or import other versions than the model does.
    """
    try:
        common.InlinePass(chosen)(model)
    except (ValueError, ir.passes.PreconditionError) as error:
        raise InputModelError("the model's functions cannot be inlined", why=str(error)) from error
