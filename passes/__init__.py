"""The pass collection: one rewrite per file. `PASSES` is the running order, `PRESETS` are pipeline texts.

normalize, fold-constants   one opset, one spelling of constants
lift-contrib                ONNX Runtime's own operators lifted to standard ones
fuse-*                      N spellings lifted up to one standard operator
calibrate, smooth, balance  outlier channels moved out of the way
quantize-*                  standard operators brought down to blocks of few bits
integer-*                   functions between codes brought down to integer arithmetic
lower-*                     the portable result made fast for one runtime
clean-up                    nothing dead is left
"""

from __future__ import annotations

from bct_onnx.base import Pass
from passes.balance import Balance
from passes.bypass_codes import BypassCodes
from passes.calibrate import Calibrate
from passes.clean_up import CleanUp
from passes.fix_shapes import FixShapes
from passes.fold_constants import FoldConstants
from passes.fuse_attention import FuseAttention
from passes.fuse_einsum import FuseEinsum
from passes.fuse_gelu import FuseGelu
from passes.fuse_layer_norm import FuseLayerNorm
from passes.fuse_linear import FuseLinear
from passes.fuse_pointwise import FusePointwise
from passes.fuse_rms_norm import FuseRmsNorm
from passes.fuse_softmax import FuseSoftmax
from passes.fuse_weights import FuseWeights
from passes.halve_floats import HalveFloats
from passes.integer_add import IntegerAdd
from passes.integer_attention import IntegerAttention
from passes.integer_gelu import IntegerGelu
from passes.integer_layer_norm import IntegerLayerNorm
from passes.integer_sigmoid import IntegerSigmoid
from passes.integer_softmax import IntegerSoftmax
from passes.lift_contrib import LiftContrib
from passes.lower_attention import LowerAttention
from passes.lower_codes import LowerCodes
from passes.lower_decoding import LowerDecoding
from passes.lower_nbits import LowerNbits
from passes.lower_norms import LowerNorms
from passes.lower_ort_cpu import LowerOrtCpu
from passes.lower_qdq import LowerQdq
from passes.lower_quantize import LowerQuantize
from passes.merge_products import MergeProducts
from passes.normalize import Normalize
from passes.quantize_activations import QuantizeActivations
from passes.quantize_dataflow import QuantizeDataflow
from passes.quantize_embeddings import QuantizeEmbeddings
from passes.quantize_intermediates import QuantizeIntermediates
from passes.quantize_weights import QuantizeWeights
from passes.separate_norms import SeparateNorms
from passes.smooth import Smooth
from passes.spell_attention import SpellAttention
from passes.split_experts import SplitExperts

PASSES: tuple[type[Pass], ...] = (
    Normalize,
    LiftContrib,
    FoldConstants,
    FuseGelu,
    FuseLayerNorm,
    FuseRmsNorm,
    FuseLinear,
    FuseEinsum,
    FusePointwise,
    FuseWeights,
    SplitExperts,
    FuseSoftmax,
    FuseAttention,
    Calibrate,
    Smooth,
    Balance,
    QuantizeEmbeddings,
    QuantizeWeights,
    QuantizeActivations,
    QuantizeIntermediates,
    QuantizeDataflow,
    IntegerGelu,
    IntegerSigmoid,
    IntegerSoftmax,
    IntegerAttention,
    IntegerAdd,
    IntegerLayerNorm,
    HalveFloats,
    SpellAttention,
    FixShapes,
    LowerDecoding,
    LowerCodes,
    LowerAttention,
    LowerNorms,
    LowerOrtCpu,
    BypassCodes,
    MergeProducts,
    LowerNbits,
    LowerQdq,
    SeparateNorms,
    LowerQuantize,
    CleanUp,
)
"""Every pass, in the order a pipeline runs them."""

_LIFT = (
    "normalize,lift-contrib,fold-constants,fuse-gelu,fuse-layer-norm,fuse-rms-norm,fuse-linear,fuse-einsum,"
    "fuse-pointwise,fuse-weights,split-experts,fuse-softmax,fuse-attention"
)

_CALIBRATE = "calibrate{samples=0 products=true},smooth"
_SMOOTH8 = "calibrate{samples=0 products=true},smooth{strength=0.65}"  # 8-bit weights can take more from activations
_WEIGHTS4 = "quantize-embeddings{solver=refined},quantize-weights{solver=refined}"
_SHIFT = "quantize-embeddings{block=64},quantize-weights{block=64x64 scale=shift}"
_HALF = "halve-floats"
_INTEGERS = "integer-gelu,integer-sigmoid,integer-softmax,integer-attention,integer-add,integer-layer-norm"

PRESETS: dict[str, str] = {
    "bct-plus": (
        f"{_LIFT},{_CALIBRATE},balance,{_WEIGHTS4},"
        f"quantize-activations{{per=static}},quantize-intermediates,{_INTEGERS},{_HALF}"
    ),
    "bct": (
        f"{_LIFT},calibrate{{samples=0}},smooth{{strength=1 block=64 scale=shift}},balance{{block=64 scale=shift}},"
        f"{_SHIFT},"
        f"quantize-activations{{per=static scale=shift}},quantize-intermediates{{scale=shift}},{_INTEGERS},{_HALF}"
    ),
    "fast": f"{_LIFT},{_CALIBRATE},{_WEIGHTS4},quantize-activations{{per=static}},{_HALF}",
    "w4a8": f"{_LIFT},{_CALIBRATE},{_WEIGHTS4},quantize-activations,{_HALF}",
    "w4a8-nearest": f"{_LIFT},quantize-embeddings,quantize-weights,quantize-activations,{_HALF}",
    "w8a8": (
        f"{_LIFT},{_SMOOTH8},quantize-embeddings{{bits=8 solver=gptq reduce-range=false}},"
        f"quantize-weights{{bits=8 solver=gptq reduce-range=false}},quantize-activations,{_HALF}"
    ),
    "w3a8": (
        f"{_LIFT},{_CALIBRATE},quantize-embeddings{{bits=3 solver=refined}},quantize-weights{{bits=3 solver=refined}},"
        f"quantize-activations,{_HALF}"
    ),
    "npu": (
        f"{_LIFT},{_SMOOTH8},quantize-embeddings{{bits=8 reduce-range=false}},"
        f"quantize-weights{{bits=8 solver=gptq reduce-range=false}},quantize-dataflow"
    ),
    "w4": f"{_LIFT},quantize-embeddings,quantize-weights,{_HALF}",
    "shift4": f"{_LIFT},quantize-embeddings,quantize-weights{{block=64x64 scale=shift}},quantize-activations,{_HALF}",
    "lift": _LIFT,
}
"""Pipelines by name, without the lowering that a target adds. The first is the default."""

TARGETS: dict[str, str] = {
    "ort-cpu": (
        "lower-decoding,lower-codes,lower-attention,lower-norms,lower-ort-cpu,bypass-codes,merge-products,"
        "separate-norms,lower-quantize,clean-up"
    ),
    "ort-cpu-integer": (
        "lower-decoding,lower-codes{products=table},lower-attention{form=integer},lower-norms{form=integer},lower-ort-cpu,"
        "merge-products,separate-norms,lower-quantize,clean-up"
    ),
    "portable": "lower-quantize{form=standard},clean-up",
    "ort-cuda": "lower-nbits,clean-up",
    "openvino": "spell-attention,lower-qdq,clean-up",
    "qnn": "spell-attention,fix-shapes,lower-qdq{weights=column},clean-up",
    "webgpu": "spell-attention,lower-nbits,clean-up",
}
"""What each target appends to a pipeline. The first is the default."""

TARGET_PRESETS: dict[str, str] = {"ort-cuda": "w4", "webgpu": "w4", "openvino": "fast", "qnn": "npu"}
"""The preset of a target, where it is not the first."""

_FLOAT_KERNELS = "its kernels for few-bit weights multiply float activations"
_GPU = {"quantize-activations*": _FLOAT_KERNELS, "quantize-intermediates*": _FLOAT_KERNELS}
_GPU |= {"quantize-dataflow*": _FLOAT_KERNELS, "integer-*": "it has no kernels for integer functions"}
_NO_FUNCTIONS = {"integer-*": "it takes operators between DequantizeLinear and QuantizeLinear, no integer functions"}
_STATIC = {
    f"quantize-activations{{per={per}*": "it takes scales that are constants; with per=static they are"
    for per in ("token", "tensor", "block")
}

REFUSED: dict[str, dict[str, str]] = {
    "ort-cuda": _GPU,
    "webgpu": _GPU,
    "openvino": {**_NO_FUNCTIONS, **_STATIC, "quantize-dataflow*": "it was not seen to take 16-bit codes"},
    "qnn": {**_NO_FUNCTIONS, **_STATIC},
}
"""Passes whose results a target has no use for, by patterns of their spelled-out text, and why."""

NEEDED: dict[str, dict[str, str]] = {
    "qnn": {"quantize-dataflow": "without codes behind every operator it would decode weights in every run"}
}
"""Passes that a target cannot do without, and why."""

_MARGIN: dict[str, dict[str, object]] = {"quantize-activations": {"noise": "margin"}}

_STANDARD: dict[str, dict[str, object]] = {"lift-contrib": {"keep": ()}}
"""These have no operators of ONNX Runtime's own."""

ADAPTED: dict[str, dict[str, dict[str, object]]] = {
    "portable": _STANDARD,
    "openvino": _STANDARD | _MARGIN,
    "qnn": _STANDARD | _MARGIN,
}
"""Options that a pass gets for a target unless they are given: some take scales that are constants alone."""

_READY = f"{_LIFT},{_CALIBRATE},balance"
_SPELLED_OUT = _READY.replace(",fuse-attention", "")

INGREDIENTS: dict[str, str] = {
    "lift": _LIFT,
    "embeddings": f"{_LIFT},quantize-embeddings",
    "weights": f"{_READY},quantize-weights{{solver=refined}}",
    "activations-static": f"{_READY},quantize-activations{{per=static floats=true}}",
    "activations-token": f"{_READY},quantize-activations{{floats=true}}",
    "activations-block": f"{_READY},quantize-activations{{per=block floats=true}}",
    "gelu": f"{_READY},quantize-intermediates{{around=gelu}},integer-gelu",
    "sigmoid": f"{_READY},quantize-intermediates{{around=sigmoid}},integer-sigmoid",
    "attention": f"{_READY},quantize-intermediates{{around=attention}},integer-attention",
    "residual": f"{_READY},quantize-intermediates{{around=residual}},integer-add",
    "norm": f"{_READY},quantize-intermediates{{around=residual|norm}},integer-add,integer-layer-norm",
    "softmax": f"{_SPELLED_OUT},quantize-intermediates{{around=softmax noise=static}},integer-softmax",
    "fast": PRESETS["fast"],
    "bct-plus": PRESETS["bct-plus"],
    "bct": PRESETS["bct"],
}
"""Replacements to be tried alone, pipelines without the lowering; the last ones are whole presets, for comparison.

All but embeddings start from the exact passes of bct-plus, so that each costs what it costs there; integer functions
with target ort-cpu-integer or portable, for ort-cpu runs some as floats. Scores and
probabilities of a fused attention are integers together with both products; softmax alone needs it spelled out.
Normalizations take integers from the residual additions before them.
"""
