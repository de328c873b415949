"""The rounding solvers by name, from the fastest to the best."""

from __future__ import annotations

from typing import Any, Literal

import numpy.typing as npt

from bct_onnx.quant.blocks import Blocks
from bct_onnx.quant.gptq import gptq
from bct_onnx.quant.refine import refine

Solver = Literal["nearest", "gptq", "refined"]


def solve(
    weight: npt.NDArray[Any], blocks: Blocks, hessian: npt.NDArray[Any], *, solver: Solver, damping: float
) -> Blocks:
    """Blocks of less error at the output than those of nearest rounding.

    Args:
        weight: [K, N], the weight that `blocks` quantizes.
        blocks: Its nearest rounding.
        hessian: [K, K], the sum of x xᵀ over inputs x.
        solver: nearest keeps the blocks; gptq is `bct_onnx.quant.gptq`; refined is `bct_onnx.quant.refine` after that.
        damping: Share of the mean diagonal of the Hessian added to its diagonal.

    Returns:
        The blocks; as they were where the Hessian is unusable (not finite, all zero).
    """
    if solver == "nearest":
        return blocks
    blocks = gptq(weight, blocks, hessian, damping=damping)
    if solver == "gptq":
        return blocks
    return refine(weight, blocks, hessian, damping=damping)
