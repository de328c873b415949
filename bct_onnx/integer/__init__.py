"""Integer kernels: GELU, softmax, attention, normalizations and others from codes to codes, without a float between.

One kernel per file: formula, source and error bound; a numpy reference; an onnxscript function in the domain `ai.bct`
whose body is standard operators, so that every runtime can execute it and Netron shows it as one box. `KERNELS` holds
all of them by name; `bct_onnx.graph.functions.use` puts one into a model.
"""

from __future__ import annotations

from bct_onnx.graph.names import by_name
from bct_onnx.integer import (
    add,
    attention,
    attention_ort_cpu,
    gelu,
    layer_norm,
    lookup,
    rms_norm,
    sigmoid,
    softmax,
)
from bct_onnx.integer.kernel import Kernel, float_values_depending_on_codes, model_functions, model_of

# One line per file; a new file brings its kernels as the tuple KERNELS.
_ALL: tuple[Kernel, ...] = (
    *gelu.KERNELS,
    *sigmoid.KERNELS,
    *lookup.KERNELS,
    *softmax.KERNELS,
    *attention.KERNELS,
    *layer_norm.KERNELS,
    *rms_norm.KERNELS,
    *add.KERNELS,
)

KERNELS: dict[str, Kernel] = by_name(_ALL)

LOWERED: dict[str, Kernel] = by_name((attention_ort_cpu.MASKED,))
"""Forms of kernels for one runtime, with operators of its own; not proven by types."""

__all__ = ["KERNELS", "LOWERED", "Kernel", "float_values_depending_on_codes", "model_functions", "model_of"]
