"""The fuse passes one after the other on the bundled model: nothing is left in pieces, and the outputs stay."""

from __future__ import annotations

import collections
import functools
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.base import Pass
from bct_onnx.graph.load import load
from bct_onnx.graph.tensors import Array
from bct_onnx.runtime.session import Optimize, run, session
from passes.fold_constants import FoldConstants
from passes.fuse_attention import FuseAttention
from passes.fuse_gelu import FuseGelu
from passes.fuse_layer_norm import FuseLayerNorm
from passes.fuse_rms_norm import FuseRmsNorm
from passes.fuse_softmax import FuseSoftmax
from passes.normalize import Normalize

pytestmark = pytest.mark.whole

BUNDLED = Path(__file__).resolve().parents[2] / "models" / "tiny-bert-sst2" / "model.onnx"
PASSES: tuple[Pass, ...] = (
    Normalize(),
    FoldConstants(),
    FuseGelu(),
    FuseLayerNorm(),
    FuseRmsNorm(),
    FuseSoftmax(),
    FuseAttention(),
)


def feeds() -> dict[str, Array]:
    """Three sentences: whole, padded on the right, and nothing but padding."""
    ids = np.random.default_rng(0).integers(5, 1000, (3, 9))
    mask = np.ones_like(ids)
    mask[1, 4:], mask[2] = 0, 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


@functools.cache
def fused() -> ir.Model:
    model = load(BUNDLED)
    for one in PASSES:
        one(model)
    return model


def outputs(model: ir.Model | Path, optimize: Optimize) -> Array:
    running = session(model, optimize=optimize)
    names = {value.name for value in running.get_inputs()}
    return run(running, {name: data for name, data in feeds().items() if name in names})[0]


def test_the_bundled_model_ends_in_one_operator_per_function() -> None:
    counts = collections.Counter(node.op_type for node in fused().graph)
    assert {name: counts[name] for name in ("Gelu", "LayerNormalization", "Attention")} == {
        "Gelu": 3,
        "LayerNormalization": 7,
        "Attention": 3,
    }
    assert not {"Erf", "Softmax", "ReduceMean", "Transpose"} & set(counts)


def test_the_outputs_of_the_bundled_model_stay_even_for_padding() -> None:
    model = fused()
    before = outputs(BUNDLED, "disabled")
    for optimize in ("disabled", "all"):
        np.testing.assert_allclose(outputs(model, optimize), before, rtol=0, atol=5e-6)
