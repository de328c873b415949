"""What `half-activations` promises beyond its golden cases: what it looks at before, and what stays as it was."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.errors import UsageError
from bct_onnx.graph import shapes, tensors
from bct_onnx.runtime import reach
from passes.half_activations import HalfActivations
from tests.graph import handmade
from tests.passes import small
from tests.passes.small import normal

TWO = """g (float[n,64] x) => (float[n,32] y) { h = MatMul (x, w)  a = Relu (h)  y = MatMul (a, v) }"""


def _two(first: float = 0.1) -> ir.Model:
    return small.model(TWO, w=normal(64, 48, scale=first), v=normal(48, 32, seed=1, scale=0.1))


def _halves(model: ir.Model) -> list[str]:
    """The operators that compute in float16."""
    return [
        node.op_type for node in model.graph if node.op_type != "Cast" and node.outputs[0].dtype == ir.DataType.FLOAT16
    ]


def _reasons(model: ir.Model, **options: object) -> list[str]:
    return [each.reason for each in small.apply(HalfActivations().replace(**options), model).declined]


@pytest.mark.parametrize("margin", [0.5, 0.0, float("nan")])
def test_a_margin_below_one_is_refused(margin: float) -> None:
    with pytest.raises(UsageError, match="is not allowed"):
        HalfActivations(margin=margin)


def test_values_that_would_overflow_stay_float32() -> None:
    """All around the large ones; what comes behind is halved again."""
    text = """g (float[n,64] x) => (float[n,32] y) {
        h = MatMul (x, w)  a = Mul (h, small)  b = MatMul (a, u)  y = MatMul (b, v) }"""
    arrays = {"w": normal(64, 48, scale=1000), "small": np.array(1e-3, np.float32), "u": normal(48, 48, seed=1)}
    model = small.model(text, **arrays, v=normal(48, 32, seed=2, scale=0.1))
    reasons = _reasons(model)
    assert len(reasons) == 1 and "float16 ends at 65504" in reasons[0]
    assert _halves(model) == ["MatMul", "MatMul"]


def test_the_margin_is_what_inputs_may_exceed_samples_by() -> None:
    assert _halves(_changed(_two(first=20.0), HalfActivations(margin=4))) == ["MatMul", "Relu", "MatMul"]
    assert _halves(_changed(_two(first=20.0), HalfActivations(margin=1000))) == []


def _changed(model: ir.Model, one: HalfActivations) -> ir.Model:
    small.apply(one, model)
    return model


def test_nothing_is_halved_where_an_output_would_lose_too_much() -> None:
    """A difference of two nearly equal products: what is left of it is what float16 rounds off."""
    w = normal(64, 32)
    text = """g (float[n,64] x) => (float[n,16] y) {
        a = MatMul (x, w)  b = MatMul (x, v)  d = Sub (a, b)  y = MatMul (d, u) }"""
    arrays = {"w": w, "v": (w * np.float32(1.001)).astype(np.float32), "u": normal(32, 16, seed=1)}
    model = small.model(text, **arrays)
    (reason,) = _reasons(model)
    assert "an output would keep" in reason and "not 40" in reason
    assert not _halves(model) and set(model.graph.initializers) == {"w", "v", "u"}


def test_what_is_too_large_to_run_is_left_unless_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "LIMIT", 1000)
    model = _two()
    (reason,) = _reasons(model)
    assert "it is not run" in reason and not _halves(model)
    assert _halves(_changed(model, HalfActivations(unmeasured="trust"))) == ["MatMul", "Relu", "MatMul"]


def test_named_nodes_stay_float32() -> None:
    model = _two()
    model.graph[0].name = "encoder/first"
    assert _reasons(model, keep=("encoder/*",)) == ["kept by option keep"]
    assert _halves(model) == ["MatMul"]
    every = _two()
    assert not _halves(_changed(every, HalfActivations(keep=("*",))))


def test_a_constant_is_stored_once() -> None:
    """In float16 where nothing else needs it; in float32, and cast when a session is created, where something does."""
    text = """g (float[n,64] x) => (float[n,64] y, float[64] z) {
        h = MatMul (x, w)  a = Add (h, b)  y = MatMul (a, w)  z = Exp (b) }"""
    model = small.model(text, w=normal(64, 64, scale=0.1), b=normal(64, seed=1))
    before = small.outputs(model, x=normal(3, 64, seed=2))["disabled"]
    small.apply(HalfActivations(), model)
    stored = {value.dtype for value in model.graph.initializers.values()}
    assert len(model.graph.initializers) == 2 and stored == {ir.DataType.FLOAT16, ir.DataType.FLOAT}
    for after in small.outputs(model, x=normal(3, 64, seed=2)).values():
        for got, want in zip(after, before, strict=True):
            small.close(got, want, 3e-3)


def test_what_a_branch_reads_is_still_float32() -> None:
    text = """g (float[n,64] x, bool c) => (float[n,32] y, float[n,64] z) {
        h = MatMul (x, w)  y = MatMul (h, v)
        z = If (c) <then_branch = t () => (float[n,64] p) { p = Exp (h) },
                    else_branch = e () => (float[n,64] q) { q = Neg (h) }> }"""
    model = small.model(text, w=normal(64, 64, scale=0.05), v=normal(64, 32, seed=1))
    small.apply(HalfActivations(), model)
    assert _halves(model) == ["MatMul", "MatMul"]
    small.outputs(model, x=normal(2, 64), c=np.array(True))


def test_names_and_types_at_the_border_stay() -> None:
    model = _two()
    small.apply(HalfActivations(), model)
    assert [(value.name, value.dtype) for value in (*model.graph.inputs, *model.graph.outputs)] == [
        ("x", ir.DataType.FLOAT),
        ("y", ir.DataType.FLOAT),
    ]


def test_a_model_in_float16_is_left_as_it_is() -> None:
    text = TWO.replace("float[", "float16[")
    arrays = {"w": normal(64, 48).astype(np.float16), "v": normal(48, 32).astype(np.float16)}
    model = small.model(text, **arrays)
    applied = small.apply(HalfActivations(), model)
    assert not applied.sites and not applied.declined


PAST = """g (float[b,s,64] x, float[b,2,p,32] past_key, float[b,2,p,32] past_value)
    => (float[b,s,64] y, float[b,2,t,32] present_key, float[b,2,t,32] present_value) {
    q = MatMul (x, w)  k = MatMul (x, u)
    c, present_key, present_value = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, k, "", past_key, past_value)
    y = MatMul (c, w) }"""


def test_a_cache_in_float32_is_not_cast_back_and_forth() -> None:
    model = small.model(PAST, w=normal(64, 64, scale=0.1), u=normal(64, 64, seed=1, scale=0.1))
    assert any("past come in float32" in reason for reason in _reasons(model))
    assert _halves(model) == ["MatMul", "MatMul", "MatMul"]


@pytest.mark.parametrize("low", [-3e38, -1e5, -np.inf])
def test_masks_beyond_float16(low: float) -> None:
    """A row that sees nothing, such as padding, is what it is in float32 only where -inf hides: not 0 / 0, unless the
    runtime gives that in float32 too, as ONNX Runtime 1.23 does."""
    text = """g (float[n,s,64] x, bool[n,1,s,s] keep) => (float[n,s,64] y) <float zero = {0}> {
        mask = Where (keep, zero, low)  q = MatMul (x, w)
        a = Attention <q_num_heads = 2, kv_num_heads = 2> (q, q, q, mask)  y = MatMul (a, w) }"""
    model = small.model(text, w=normal(64, 64, scale=0.1), low=np.array(low, np.float32))
    feeds = {"x": normal(2, 5, 64, seed=1), "keep": np.tril(np.ones((2, 1, 5, 5), bool))}
    feeds["keep"][0, 0, :2] = False
    (before,) = small.outputs(model, **feeds)["all"]
    small.apply(HalfActivations(), model)
    assert "Attention" in _halves(model) and small.ops(model).get("Max", 0) == (0 if np.isinf(low) else 1)
    for (after,) in small.outputs(model, **feeds).values():
        seeing = np.isfinite(before[0]).all(-1) if np.isinf(low) else slice(2, None)
        assert np.isfinite(after[np.isfinite(before)]).all()
        small.close(after[0, seeing], before[0, seeing], 2e-3)
        small.close(after[1], before[1], 2e-3)


def test_scales_that_float16_does_not_hold() -> None:
    text = """g (float[n,64] x) => (float[n,32] y) { w = Mul (c, s)  y = MatMul (x, w) }"""
    model = small.model(text, c=normal(64, 32), s=np.full(32, 1e-9, np.float32))
    (reason,) = _reasons(model)
    assert reason == "float16 does not hold the values of 's'"
    assert tensors.array(model.graph.initializers["s"]).dtype == np.float32


def test_an_attention_that_gpus_have_in_float16_alone() -> None:
    """With its cache: in float32 the CPU would run it."""
    text = """<ir_version: 10, opset_import: ["" : 23, "com.microsoft": 1]>
        g (float[2,1,64] x, float[2,2,4,16] past_key, float[2,2,4,16] past_value)
        => (float[2,1,64] y, float[2,2,5,16] pk, float[2,2,5,16] pv)
        <int32[2] lasts = {4, 4}, int32 total = {5}> {
        q = MatMul (x, w)  k = MatMul (x, u)
        c, pk, pv = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2>
            (q, k, k, past_key, past_value, lasts, total)
        y = MatMul (c, w) }"""
    arrays = {"w": normal(64, 64, scale=0.1), "u": normal(64, 32, seed=1, scale=0.1)}
    model = ir.from_proto(handmade.model(text, **arrays))
    shapes.infer(model)
    feeds = {name: normal(2, 2, 4, 16, seed=seed) for seed, name in enumerate(("past_key", "past_value"))}
    feeds["x"] = normal(2, 1, 64, seed=2)
    before = small.outputs(model, **feeds)["all"]
    HalfActivations(unmeasured="trust")(model)
    assert _halves(model) == ["MatMul", "MatMul", "GroupQueryAttention", "MatMul"]
    for after in small.outputs(model, **feeds).values():
        for got, want in zip(after, before, strict=True):
            small.close(got, want, 5e-3)


def test_attentions_stay_where_a_row_sees_nothing() -> None:
    """A window before padding: the last of the padding sees padding alone, and in float32 all values alike."""
    text = """g (float[n,s,64] x, int64[n,s] attention_mask) => (float[n,s,64] y)
        <float zero = {0}, float low = {-1e30}, int64[2] keys = {1, 2}, int64 none = {0}, int64 one = {1},
         int64 back = {-2}, int64[1] first = {0}, int64[1] last = {1}> {
        shown = Unsqueeze (attention_mask, keys)  seen = Cast <to = 9> (shown)
        length = Shape <start = 1, end = 2> (x)  square = Concat <axis = 0> (length, length)
        all = Expand (one, square)  band = Trilu <upper = 1> (all, back)  near = Cast <to = 9> (band)
        keep = And (seen, near)  mask = Where (keep, zero, low)  q = MatMul (x, w)
        a = Attention <q_num_heads = 2, kv_num_heads = 2, is_causal = 1> (q, q, q, mask)  y = MatMul (a, w) }"""
    model = small.model(text, w=normal(64, 64, scale=0.2))
    (reason,) = _reasons(model)
    assert "maybe where rows see nothing" in reason
    assert _halves(model) == ["MatMul", "MatMul"]
