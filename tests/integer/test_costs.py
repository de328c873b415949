"""Tests of the table of costs: every form of every function runs."""

from __future__ import annotations

from bct_onnx.integer import costs


def test_every_form_runs() -> None:
    measured = dict(costs.measure(rounds=1))
    assert {"GELU", "softmax", "attention", "LayerNorm", "residual Add"} <= set(measured)
    for function, forms in measured.items():
        assert {"float", "ai.bct"} <= set(forms), function
        assert all(0 < cost < 1e6 for cost in forms.values()), function
