"""numpy and ONNX Runtime decode a weight to the same bits, at every optimization level."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from bct_onnx.quant import Blocks, Scheme, quantize
from tests.quant.strategies import Matrix, normal
from tests.versions import TWO_BITS

_SIGNED = {2: ml_dtypes.int2, 4: ml_dtypes.int4, 8: np.int8}
_UNSIGNED = {2: ml_dtypes.uint2, 4: ml_dtypes.uint4, 8: np.uint8}


def _model(blocks: Blocks) -> bytes:
    """A graph without inputs: the weight, decoded by one DequantizeLinear, or by two one inside the other."""
    scheme = blocks.scheme
    arrays: dict[str, Matrix] = {
        "codes": blocks.codes.astype((_SIGNED if scheme.symmetric else _UNSIGNED)[scheme.bits]),
        "scale": blocks.scale.astype(np.float32),
    }
    nodes = []
    inputs = ["codes", "scale"]
    if blocks.multipliers is not None:
        kind = ml_dtypes.int4 if blocks.multipliers.dtype == np.int8 else ml_dtypes.uint4
        arrays["multipliers"] = blocks.multipliers.astype(kind)
        nodes.append(helper.make_node("DequantizeLinear", ["multipliers", "scale"], ["block_scale"], axis=1))
        inputs = ["codes", "block_scale"]
    if blocks.zero_points is not None:
        arrays["zero_points"] = blocks.zero_points.astype(_UNSIGNED[scheme.bits])
        inputs.append("zero_points")
    per_column = scheme.is_integer and blocks.multipliers is None
    axis, block_size = (1, 0) if per_column else (0, scheme.block_shape[0])
    nodes.append(helper.make_node("DequantizeLinear", inputs, ["weight"], axis=axis, block_size=block_size))
    graph = helper.make_graph(
        nodes,
        "decode",
        [],
        [helper.make_tensor_value_info("weight", onnx.TensorProto.FLOAT, blocks.shape)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    two_bits = scheme.bits == 2
    opset, ir_version = (25, 13) if two_bits else (21, 10)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("level", [0, 99])
@pytest.mark.parametrize("shape", [(64, 6), (80, 7)])
@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(4, 32),
        Scheme(4, 32, signed_scales=True),
        Scheme(4, 32, symmetric=False),
        Scheme(4, 32, scale="shift"),
        Scheme(4, 32, scale="float16"),
        Scheme(4, 32, scale="float32", signed_scales=True),
        Scheme(8, 32),
        Scheme(8, 32, scale="float16", symmetric=False),
        pytest.param(Scheme(2, 32), marks=TWO_BITS),
    ],
    ids=str,
)
def test_same_bits(
    scheme: Scheme, shape: tuple[int, int], level: int, ort_session: Callable[..., ort.InferenceSession]
) -> None:
    blocks = quantize(normal(*shape), scheme)
    decoded = ort_session(_model(blocks), level).run(None, {})[0]
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, blocks.dequantize())
