"""What becomes a logarithm is told through the floors and factors in front of it, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from bct_onnx.graph.logarithms import becomes_logarithm
from tests.passes.small import model, normal


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("y = Log (p)", True),
        ("c = Clip (p, floor)  y = Log (c)", True),
        ("a = Add (p, floor)  t = Transpose (a)  y = Log (t)", True),
        ("s = Softmax (p)  y = Log (s)", False),
        ("a = Add (p, x)  y = Log (a)", False),
        ("r = Relu (p)  y = Neg (r)", False),
    ],
)
def test_logarithms_behind_a_product(nodes: str, expected: bool) -> None:
    text = f"g (float[n,8] x) => (float[a,b] y) {{ p = MatMul (x, w)  {nodes} }}"
    arrays = {"floor": np.array(1e-9, np.float32)} if "floor" in nodes else {}
    product = next(node for node in model(text, w=normal(8, 8), **arrays).graph if node.op_type == "MatMul")
    assert becomes_logarithm(product.outputs[0]) is expected
