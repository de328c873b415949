"""The pass collection: one rewrite per file. `PASSES` is the running order.

Presets, pipelines with a name, lie in presets.toml.

normalize, fold-constants   one opset, one spelling of constants
lift-contrib                ONNX Runtime's own operators lifted to standard ones
fuse-*                      N spellings lifted up to one standard operator
drop-layers, thin-tables    less of it, to be trained
skip-unread-rows            no token is computed that nobody reads
calibrate, smooth, balance  outlier channels moved out of the way
quantize-*                  standard operators brought down to blocks of few bits
integer-*                   functions between codes brought down to integer arithmetic
lower-*                     the portable result made fast for one runtime
clean-up                    nothing dead is left
"""

from __future__ import annotations

from bct_onnx.base import Pass
from passes.allocate import Allocate
from passes.balance import Balance
from passes.bypass_codes import BypassCodes
from passes.calibrate import Calibrate
from passes.clean_up import CleanUp
from passes.correct_biases import CorrectBiases
from passes.distill import Distill
from passes.drop_layers import DropLayers
from passes.factorize import Factorize
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
from passes.guard_attention import GuardAttention
from passes.half_activations import HalfActivations
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
from passes.lower_portable import LowerPortable
from passes.lower_qdq import LowerQdq
from passes.lower_quantize import LowerQuantize
from passes.lower_runtime import LowerRuntime
from passes.lower_weights import LowerWeights
from passes.merge_products import MergeProducts
from passes.normalize import Normalize
from passes.pack_nibbles import PackNibbles
from passes.quantize_activations import QuantizeActivations
from passes.quantize_dataflow import QuantizeDataflow
from passes.quantize_embeddings import QuantizeEmbeddings
from passes.quantize_intermediates import QuantizeIntermediates
from passes.quantize_parameters import QuantizeParameters
from passes.quantize_weights import QuantizeWeights
from passes.remove_padding import RemovePadding
from passes.separate_norms import SeparateNorms
from passes.skip_unread_rows import SkipUnreadRows
from passes.smooth import Smooth
from passes.spell_attention import SpellAttention
from passes.split_experts import SplitExperts
from passes.split_units import SplitUnits
from passes.thin_tables import ThinTables

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
    DropLayers,
    ThinTables,
    SkipUnreadRows,
    Calibrate,
    Smooth,
    Balance,
    Factorize,
    Allocate,
    QuantizeEmbeddings,
    QuantizeWeights,
    Distill,
    SplitUnits,
    QuantizeActivations,
    QuantizeIntermediates,
    QuantizeDataflow,
    CorrectBiases,
    IntegerGelu,
    IntegerSigmoid,
    IntegerSoftmax,
    IntegerAttention,
    IntegerAdd,
    IntegerLayerNorm,
    QuantizeParameters,
    HalveFloats,
    SpellAttention,
    FixShapes,
    LowerDecoding,
    LowerCodes,
    LowerAttention,
    GuardAttention,
    LowerNorms,
    LowerWeights,
    BypassCodes,
    MergeProducts,
    LowerNbits,
    HalfActivations,
    LowerQdq,
    LowerPortable,
    SeparateNorms,
    LowerRuntime,
    LowerQuantize,
    PackNibbles,
    RemovePadding,
    CleanUp,
)
"""Every pass, in the order a pipeline runs them."""
