"""Constants of 4 bits as bytes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from bct_onnx.forms import nibbles
from tests.passes.small import model

CODES = np.arange(-8, 8, dtype=np.int8).reshape(2, 8)


def test_codes_that_are_an_output_as_well_stay_beside_their_bytes() -> None:
    target = model("g (float[n] x) => (float[2,8] y, int4[2,8] codes) { y = Cast <to: int = 1> (codes) }")
    codes = ir.tensor(CODES.astype(ml_dtypes.int4), name="codes")
    output = target.graph.outputs[1]
    output.const_value = codes
    target.graph.register_initializer(output)
    [site] = nibbles.pack(target, lambda node, _: node.op_type == "Cast")
    assert site.name == "codes" and {"codes", "codes.bytes"} <= set(target.graph.initializers)
    target.clone()
