"""remove-padding against the model as it was: any mask, any batch, spelled in several ways."""

from __future__ import annotations

import functools

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bct_onnx.base import Applied, Stage
from bct_onnx.graph.padding.buckets import leads_back
from bct_onnx.graph.padding.layout import Mixing
from bct_onnx.graph.padding.record import Removed
from bct_onnx.graph.tensors import Array
from bct_onnx.registry import complete
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.session import run, session
from passes.remove_padding import RemovePadding
from tests.examples import examples
from tests.passes import small

WIDTH = 8

MASKS = {
    "added": """real = Cast <to = 1> (mask)  hidden = Sub (one, real)  added = Mul (hidden, most)
        row = Unsqueeze (added, axes)  keep = Expand (row, shape)""",
    "boolean": """real = Cast <to = 9> (mask)  row = Unsqueeze (real, axes)  keep = Expand (row, shape)""",
    "chosen": """real = Cast <to = 9> (mask)  row = Unsqueeze (real, axes)  wide = Expand (row, shape)
        keep = Where (wide, zero, most)""",
    "true is padding": """real = Cast <to = 9> (mask)  row = Unsqueeze (real, axes)  wide = Expand (row, shape)
        keep = Not (wide)""",
}

LAYER = """
    x = Gather (table, ids)  q = MatMul (x, first)  k = MatMul (x, second)
    texts = Shape <start = 0, end = 1> (mask)  length = Shape <start = 1, end = 2> (mask)
    shape = Concat <axis = 0> (texts, single, length, length)
    MASK
    a = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, q, keep)
    h = Add (a, x)  n = LayerNormalization (h, gain)  b = MatMul (n, second)
    c = Attention <q_num_heads = 2, kv_num_heads = 2> (b, n, b, keep)  tokens = Add (c, n)
    text = Gather <axis = 1> (tokens, position)"""


@functools.cache
def sessions(spelling: str, buckets: int) -> tuple[ort.InferenceSession, ort.InferenceSession, Removed]:
    """A model of two layers before and after the pass, and what it says of itself."""
    text = f"""g (int64[batch,length] ids, int64[batch,length] mask)
            => (float[batch,length,8] tokens, float[batch,8] text)
        <float one = {{1.0}}, float zero = {{0.0}}, float most = {{-1e9}}, int64[2] axes = {{1, 2}},
         int64[1] single = {{1}}, int64 position = {{0}}>
        {{ {LAYER.replace("MASK", MASKS[spelling])} }}"""
    model = small.model(
        text,
        table=small.normal(20, WIDTH, seed=1),
        first=small.normal(WIDTH, WIDTH, seed=2),
        second=small.normal(WIDTH, WIDTH, seed=3),
        gain=small.normal(WIDTH, seed=4),
    )
    before = session(model)
    applied = small.apply(RemovePadding(buckets=buckets), model)
    assert isinstance(applied, Applied) and applied.sites
    removed = Removed.of(model.metadata_props)
    assert removed is not None
    return before, session(model), removed


def drawn(real: Array, seed: int) -> Array:
    """Tokens, those that are hidden too."""
    return np.array(np.random.default_rng(seed).integers(0, 20, real.shape))


@st.composite
def masks(draw: st.DrawFn) -> Array:
    """Real tokens of a batch: whole, padded on either side, with holes, none at all."""
    batch, length = draw(st.integers(1, 20)), draw(st.integers(1, 12))
    rows = []
    for _ in range(batch):
        count = draw(st.integers(0, length))
        row = np.zeros(length, np.bool_)
        side = draw(st.sampled_from(("right", "left", "holes")))
        if side == "holes":
            row[draw(st.permutations(range(length)))[:count]] = True
        else:
            row[:count] = True
        rows.append(row[::-1] if side == "left" else row)
    return np.stack(rows)


@pytest.mark.parametrize("buckets", [1, 3, 8])
@pytest.mark.parametrize("spelling", MASKS)
@given(real=masks(), seed=st.integers(0, 99))
@examples(25)
def test_real_tokens_are_what_they_were(spelling: str, buckets: int, real: Array, seed: int) -> None:
    before, after, removed = sessions(spelling, buckets)
    assert removed.hides == (spelling == "true is padding")
    mask = (~real if removed.hides else real).astype(np.int64)
    feeds: Feeds = {"ids": drawn(real, seed), "mask": mask}
    tokens, text = run(after, feeds)
    wanted, wanted_text = run(before, feeds)
    assert not tokens[~real].any()
    np.testing.assert_allclose(tokens[real], wanted[real], atol=1e-5)
    some = real.any(axis=1)
    np.testing.assert_allclose(text[some], wanted_text[some], atol=1e-5)


@given(real=masks(), seed=st.integers(0, 99))
@examples(25)
def test_a_text_gives_the_same_in_every_batch(real: Array, seed: int) -> None:
    _, after, _ = sessions("added", 3)
    ids = drawn(real, seed)
    together, _ = run(after, {"ids": ids, "mask": real.astype(np.int64)})
    for number in np.flatnonzero(real.any(axis=1)).tolist():
        one = slice(number, number + 1)
        alone, _ = run(after, {"ids": ids[one], "mask": real[one].astype(np.int64)})
        np.testing.assert_array_equal(alone[0][real[number]], together[number][real[number]])


@pytest.mark.parametrize("spelling", MASKS)
def test_without_padding_nothing_is_different(spelling: str) -> None:
    before, after, removed = sessions(spelling, 3)
    real = np.ones((5, 7), np.bool_)
    mask = (~real if removed.hides else real).astype(np.int64)
    feeds: Feeds = {"ids": drawn(real, 1), "mask": mask}
    for wanted, given_now in zip(run(before, feeds), run(after, feeds), strict=True):
        np.testing.assert_array_equal(given_now, wanted)


def test_it_waits_until_all_is_lowered() -> None:
    passes = [each.name for each in complete("remove-padding{buckets=4},lift", "ort-cpu")]
    assert passes[-2:] == ["remove-padding", "clean-up"]
    assert passes.count("remove-padding") == 1


def test_what_is_asked_of_it_holds_wherever_it_stands() -> None:
    (asked,) = (each for each in complete("remove-padding{buckets=4},lift", "ort-cpu") if each.stage is Stage.PACK)
    assert str(asked) == "remove-padding{buckets=4}"


def test_an_output_that_sees_all_tokens_has_zeros_too() -> None:
    model = small.model(
        """g (float[batch,length,8] x, int64[batch,length] mask) => (float[batch,length,8] y) <int64[1] axis = {2}>
        { h = MatMul (x, weight)  real = Cast <to = 1> (mask)  rows = Unsqueeze (real, axis)  y = Mul (h, rows) }""",
        weight=small.normal(WIDTH, WIDTH),
    )
    before = session(model)
    assert small.apply(RemovePadding(), model).sites
    mask = np.array([[1, 1, 0], [0, 1, 1]])
    feeds = {"x": small.normal(2, 3, WIDTH, seed=1), "mask": mask}
    np.testing.assert_allclose(run(session(model), feeds)[0], run(before, feeds)[0], atol=1e-6)


def test_a_group_that_a_result_of_it_leads_back_to_is_not_run_as_a_whole() -> None:
    body = "a = Relu (x)  m = Neg (a)  c = Add (a, m)  y = Identity (c)"
    graph = small.model(f"g (float[b,t,8] x) => (float[b,t,8] y) {{ {body} }}").graph
    relu, negated, added, _ = graph
    (x,), (a,), (m,), (c,) = graph.inputs, relu.outputs, negated.outputs, added.outputs
    assert leads_back(Mixing((relu, added), (x, m), (a, c), ()))
    assert not leads_back(Mixing((relu,), (x,), (a,), ())) and not leads_back(Mixing((added,), (a, m), (c,), ()))


def test_a_choice_by_hidden_tokens_counts_where_no_random_ones_change_it() -> None:
    model = small.model(
        """g (int64[batch,length] ids, int64[batch,length] mask) => (float[batch,8] text)
        <float zero = {0.0}, float most = {-1e9}, int64[1] over = {1}, int64[2] axes = {1, 2}, int64[1] single = {1},
         int64 position = {0}, float[2] prior = {99.0, 0.0}>
        { """
        + LAYER.replace("MASK", MASKS["chosen"]).replace("text =", "first_token =")
        + """ top = ReduceMax <keepdims = 0> (tokens, over)  scores = MatMul (top, router)  biased = Add (scores, prior)
            expert = ArgMax <axis = -1, keepdims = 0> (biased)  matrix = Gather (experts, expert)
            column = Unsqueeze (first_token, over)  y = MatMul (column, matrix)  text = Squeeze (y, over) }""",
        table=small.normal(20, WIDTH, seed=1),
        first=small.normal(WIDTH, WIDTH, seed=2),
        second=small.normal(WIDTH, WIDTH, seed=3),
        gain=small.normal(WIDTH, seed=4),
        router=small.normal(WIDTH, 2, seed=5),
        experts=small.normal(2, WIDTH, WIDTH, seed=6),
    )
    applied = small.apply(RemovePadding(), model)
    assert "hidden tokens change what" in (applied.declined[0].reason if applied.declined else applied.sites[0].note)
