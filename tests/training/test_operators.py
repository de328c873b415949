"""Every operator that can be trained through gives in torch what ONNX Runtime gives."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from bct_onnx.graph.operators import identifier
from bct_onnx.runtime.session import run, session
from tests.passes import small

pytestmark = pytest.mark.train

SHAPED = {
    "Reshape": "y = Reshape (x, shape)",
    "Expand": "y = Expand (x, wide)",
    "Squeeze": "u = Unsqueeze (x, first) y = Squeeze (u, first)",
    "Unsqueeze": "y = Unsqueeze (x, ends)",
    "Concat": "y = Concat <axis = 1> (x, z)",
    "Split": "y, rest = Split <axis = 2, num_outputs = 2> (x)",
    "Slice": "y = Slice (x, from, to, axes, steps)",
    "Gather": "y = Gather <axis = 1> (x, rows)",
    "Flatten": "y = Flatten <axis = 2> (x)",
    "Transpose": "y = Transpose <perm = [0, 2, 1]> (x)",
    "Identity": "y = Identity (x)",
    "Cast": "y = Cast <to = 1> (x)",
    "Where": "c = Greater (x, z) y = Where (c, x, z)",
}
UNARY = ("Neg", "Abs", "Exp", "Erf", "Tanh", "Sigmoid", "Relu", "Softplus", "Cos", "Sin", "HardSwish", "Mish")
CASES = {
    "MatMul": "y = MatMul (x, w)",
    "Gemm": "f = Flatten <axis = 2> (x) y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (f, square, bias)",
    "Add": "y = Add (x, bias)",
    "Sub": "y = Sub (x, bias)",
    "Mul": "y = Mul (x, bias)",
    "Div": "y = Div (x, positive)",
    "Pow": "y = Pow (positive, two)",
    "Sqrt": "y = Sqrt (positive)",
    "Reciprocal": "y = Reciprocal (positive)",
    "Log": "y = Log (positive)",
    **{name: f"y = {name} (x)" for name in UNARY},
    "Max": "y = Max (x, z, bias)",
    "Min": "y = Min (x, z)",
    "Clip": "y = Clip (x, low, high)",
    "Gelu": 'y = Gelu <approximate = "tanh"> (x)',
    "Swish": "",  # of opset 24, which the oldest runtime does not have: see below
    "Softmax": "y = Softmax <axis = 1> (x)",
    "LogSoftmax": "y = LogSoftmax (x)",
    "LayerNormalization": "y = LayerNormalization <epsilon = 0.01> (x, positive_row, bias)",
    "RMSNormalization": "y = RMSNormalization <epsilon = 0.01> (x, positive_row)",
    "ReduceMean": "y = ReduceMean <keepdims = 0> (x, second)",
    "ReduceSum": "y = ReduceSum (x, second)",
    "ReduceL2": "y = ReduceL2 (x, second)",
    "Attention": "y = Attention <q_num_heads = 4, kv_num_heads = 2> (x, narrow, narrow, mask)",
    **SHAPED,
}
ATTENTIONS = (
    "y = Attention <q_num_heads = 4, kv_num_heads = 4, is_causal = 1, scale = 0.7> (x, x, z)",
    "y = Attention <q_num_heads = 2, kv_num_heads = 2> (x, x, z, seen)",
    "y, k, v = Attention <q_num_heads = 4, kv_num_heads = 4, is_causal = 1> (x, x, z, , past, past)",
)
ARRAYS: dict[str, Any] = {
    "w": small.normal(16, 8, seed=1),
    "square": small.normal(16, 16, seed=2),
    "bias": small.normal(16, seed=3),
    "positive": np.abs(small.normal(2, 5, 16, seed=4)) + 0.5,
    "positive_row": np.abs(small.normal(16, seed=5)) + 0.5,
    "two": np.float32(2.0),
    "low": np.float32(-0.5),
    "high": np.float32(0.5),
    "narrow": small.normal(2, 5, 8, seed=6),
    "mask": small.normal(2, 1, 5, 5, seed=7),
    "seen": np.tril(np.ones((5, 5), bool)),
    "past": small.normal(2, 4, 3, 4, seed=8),
    "second": np.array([1]),
    "first": np.array([0]),
    "ends": np.array([0, -1]),
    "shape": np.array([0, -1, 4]),
    "wide": np.array([3, 1, 1, 1]),
    "rows": np.array([[0, -1], [2, 2]]),
    "from": np.array([-1, 1]),
    "to": np.array([-100, 100]),
    "axes": np.array([1, 2]),
    "steps": np.array([-2, 3]),
}


def _compare(text: str) -> set[str]:
    """Compute the text both ways; the operators in it."""
    import torch

    from bct_onnx.training.operators import OPERATORS

    used = {name: array for name, array in ARRAYS.items() if re.search(rf"\b{name}\b", text)}
    model = small.model(f"g (float[2,5,16] x, float[2,5,16] z) => (float y) {{ {text} }}", **used)
    feeds = {"x": small.normal(2, 5, 16, seed=9), "z": small.normal(2, 5, 16, seed=10)}
    known = {name: torch.from_numpy(np.array(array)) for name, array in {**used, **feeds}.items()}
    for node in model.graph:
        if node.op_type == "Greater":
            known[node.outputs[0].name or ""] = known["x"] > known["z"]
            continue
        inputs = [None if value is None else known[value.name or ""] for value in node.inputs]
        result = OPERATORS[identifier(node)](node, inputs)
        for value, output in zip(node.outputs, result if isinstance(result, tuple) else (result,), strict=False):
            known[value.name or ""] = output
    [expected] = run(session(model, optimize="disabled"), feeds)
    assert known["y"].shape == expected.shape
    np.testing.assert_allclose(known["y"].numpy(), expected, rtol=1e-5, atol=1e-5)
    return {identifier(node) for node in model.graph}


@pytest.mark.parametrize("operator", [name for name, text in CASES.items() if text])
def test_torch_computes_what_onnx_runtime_does(operator: str) -> None:
    assert operator in _compare(CASES[operator])


@pytest.mark.parametrize("text", ATTENTIONS)
def test_attention_in_its_other_forms(text: str) -> None:
    _compare(text)


def test_swish_is_what_its_formula_says() -> None:
    import onnx_ir as ir
    import torch

    from bct_onnx.training.operators import OPERATORS

    x = torch.linspace(-4, 4, 9)
    node = ir.node("Swish", [ir.Value(name="x")], {"alpha": 1.5})
    np.testing.assert_allclose(OPERATORS["Swish"](node, [x]), x / (1 + np.exp(-1.5 * x)), rtol=1e-6)


def test_every_operator_has_a_case() -> None:
    from bct_onnx.training.operators import OPERATORS

    assert OPERATORS.keys() == CASES.keys()
