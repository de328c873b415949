"""Inputs are understood by what the graph does with them, whatever their names, and samples make sense to the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.errors import TargetError
from bct_onnx.runtime.inputs import inputs_of
from bct_onnx.runtime.session import run, session
from bct_onnx.runtime.understanding import Sampler
from bct_onnx.runtime.understanding.meaning import Meaning
from bct_onnx.runtime.understanding.sizes import FreeSizes, Sizes
from tests.graph import handmade
from tests.passes.small import model, normal
from tests.runtime.understood import FREE, HEAD, PLACES, ROWS, kinds, sampler

LOOKUPS = {
    "called text": ("int64[batch,seq] text", "e = Gather (table, text)"),
    "int32": ("int32[batch,seq] x", "e = Gather (table, x)"),
    "as floats": ("float[batch,seq] x", "i = Cast <to = 7> (x)  e = Gather (table, i)"),
    "one of two rows": ("int64[1,2,seq] input", "i = Gather <axis = 1> (input, zero)  e = Gather (table, i)"),
    "columns of a table": (
        "int64[batch,seq] src",
        "wide = Transpose (table)  c = Gather <axis = 1> (wide, src)  e = Transpose <perm = [1, 2, 0]> (c)",
    ),
    "one-hot": ("int64[batch,seq] chars", "h = OneHot (chars, depth, pair)  e = MatMul (h, table)"),
    "one-hot by comparison": (
        "int32[batch,seq] bytes",
        "u = Unsqueeze (bytes, ax2)  q0 = Equal (u, upto)  h = Cast <to = 1> (q0)  e = MatMul (h, table)",
    ),
    "from one on": ("int64[batch,seq] x", "i = Add (x, zero)  e = Gather (table, i)"),
    "a table with an offset": ("int64[batch,seq] places", "i = Add (places, two)  e = Gather (table, i)"),
}
ARRAYS = {
    "depth": np.array(ROWS),
    "pair": np.array([0, 1], np.float32),
    "upto": np.arange(ROWS, dtype=np.int32),
    "two": np.array(2),
}


@pytest.mark.parametrize("case", LOOKUPS)
def test_what_picks_rows_of_a_table_takes_all_of_them(case: str) -> None:
    one = sampler(*LOOKUPS[case], **{k: v for k, v in ARRAYS.items() if k in LOOKUPS[case][1]})
    (name,) = one.meanings
    feeds = one.sample(4, 400)
    used = ROWS - 2 if "offset" in case else ROWS
    assert kinds(one) == {name: "ids"} and one.meaningful, one.reason
    assert set(np.unique(feeds[name])) == set(range(used))
    assert name in one.notes[0] and str(used) in one.notes[0]


@pytest.mark.parametrize(
    ("nodes", "rows"),
    [
        ("i = Add (x, begins)  e = Gather (table, i)", ROWS - 30),
        ("m = Mul (x, two)  i = Add (m, begins)  e = Gather (table, i)", (ROWS - 30 + 1) // 2),
        ("i = Sub (x, begins)  e = Gather (table, i)", ROWS),
    ],
)
def test_columns_pick_from_parts_of_one_table(nodes: str, rows: int) -> None:
    arrays = {"begins": np.array([0, 20, 30]), "two": np.array(2)}
    one = sampler("int64[batch,3] x", nodes, **{name: array for name, array in arrays.items() if name in nodes})
    assert one.meaningful, one.reason
    assert set(np.unique(one.sample(400, 3)["x"])) == set(range(rows))


WIDE = normal(32, 32)

MASKS = {
    "keep": "w = Where (m4, none, infinite)  s = Add (s0, w)",
    "pad": "w = Where (m4, infinite, none)  s = Add (s0, w)",
    "keep by numbers": "f = Cast <to = 1> (m4)  o = Sub (unit, f)  w = Mul (o, low)  s = Add (s0, w)",
    "pad by numbers": "f = Cast <to = 1> (m4)  w = Mul (f, low)  s = Add (s0, w)",
}


@pytest.mark.parametrize("name", ["mask", "attention_mask", "src_key_padding_mask", "m"])
@pytest.mark.parametrize("dtype", ["bool", "int64"])
@pytest.mark.parametrize("case", MASKS)
def test_a_mask_shows_more_than_it_hides_whatever_its_name(case: str, dtype: str, name: str) -> None:
    if dtype == "int64" and "numbers" not in case:
        pytest.skip("Where takes booleans")
    nodes = f"e = Gather (table, ids)  m4 = Unsqueeze ({name}, ax1)"
    one = sampler(f"int64[batch,seq] ids, {dtype}[batch,seq] {name}", nodes, MASKS[case])
    shown = 1 if "keep" in case else 0
    assert one.meaningful and one.meanings[name].kind == "mask"
    assert (one.sample(2, 9)[name] == shown).all()
    padded = one.sample(8, 30, padding=True, seed=1)[name]
    assert (padded[0] == shown).all() and {0, 1} == set(np.unique(padded)) and (padded[:, 0] == shown).all()


def test_a_float_mask_is_added_or_multiplied() -> None:
    added = sampler("int64[b,t] ids, float[b,1,t] bias", "e = Gather (table, ids)", "s = Add (s0, bias)")
    assert (added.sample(2, 9)["bias"] == 0).all()
    nodes = "g = Gather (table, ids)  m = Unsqueeze (valid, ax2)  e = Mul (g, m)"
    compared = "c = Greater (valid, half)  c4 = Unsqueeze (c, ax1)  w = Where (c4, none, low)  s = Add (s0, w)"
    kept = sampler("int64[b,t] ids, float[b,t] valid", nodes, compared, half=np.array(0.5, np.float32))
    assert (kept.sample(2, 9)["valid"] == 1).all() and 0 in kept.sample(4, 40, padding=True)["valid"]


LENGTHS = """
    l = Unsqueeze (n, ax1)  known = Less (at, l)  m4 = Unsqueeze (known, ax1)
    w = Where (m4, none, low)  s = Add (s0, w)"""


@pytest.mark.parametrize("dtype", ["int64", "int32"])
@pytest.mark.parametrize(
    ("features", "nodes"),
    [
        ("float[batch,8,frames] speech", "e = Transpose <perm = [0, 2, 1]> (speech)"),
        ("float[batch,frames,8] x", "e = Identity (x)"),
        ("int64[batch,frames] phonemes", "e = Gather (table, phonemes)"),
    ],
)
def test_a_length_is_that_of_the_sequence(features: str, nodes: str, dtype: str) -> None:
    places = PLACES if dtype == "int64" else PLACES.replace("at =", "at64 =") + " at = Cast <to = 6> (at64)"
    one = sampler(f"{features}, {dtype}[batch] n", nodes + places, LENGTHS)
    feeds = one.sample(3, 10)
    frames = max(feeds[features.rsplit(maxsplit=1)[-1]].shape[1:]) if "phonemes" not in features else 10
    assert one.meaningful and kinds(one)["n"] == "length" and (feeds["n"] == frames).all()
    assert len(set(one.sample(9, 30, padding=True)["n"].tolist())) > 2


def test_a_length_behind_strides_is_that_of_what_they_leave() -> None:
    nodes = "c = Conv <strides = [4]> (x, kernel)  e = Transpose <perm = [0, 2, 1]> (c)"
    one = sampler("float[b,8,frames] x, int64[b] n", nodes + PLACES, LENGTHS, kernel=normal(8, 8, 4, scale=0.2))
    feeds = one.sample(2, 16)
    assert (feeds["n"] * 4 == feeds["x"].shape[2]).all()
    assert (one.sample(8, 16, padding=True)["n"] * 4 <= feeds["x"].shape[2]).all()


def test_lengths_beside_pairs_and_scalars() -> None:
    nodes = "a = Gather (table, src)  b = Gather (table, tgt)  e = Concat <axis = 1> (a, b)"
    one = sampler(
        "int64[b,s] src, int64[b,t] tgt, int64 speaker_count", nodes, FREE + "  unused = Add (speaker_count, one)"
    )
    assert kinds(one)["src"] == kinds(one)["tgt"] == "ids" and one.meaningful


def test_boundaries_of_sequences_end_with_the_total() -> None:
    scores = """
        first = Slice (cu_seqlens, s0_, s1_)  last = Slice (cu_seqlens, s1_, s2_)
        a = GreaterOrEqual (at, first)  b = Less (at, last)  c = And (a, b)
        w = Where (c, none, low)  s = Add (s0, w)"""
    arrays = {"s0_": np.array([0]), "s1_": np.array([1]), "s2_": np.array([2])}
    one = sampler("int64[1,t] ids, int64[2] cu_seqlens", "e = Gather (table, ids)" + PLACES, scores, **arrays)
    assert one.sample(1, 12)["cu_seqlens"].tolist() == [0, 12] and one.meaningful


def test_cache_lengths_of_a_grouped_query_attention() -> None:
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    inputs = [value("ids", TensorProto.INT64, ["b", "t"])]
    inputs += [value(f"past_key_values.0.{each}", TensorProto.FLOAT, ["b", 1, "past", 8]) for each in ("key", "value")]
    inputs += [value("seqlens_k", TensorProto.INT32, ["b"]), value("total", TensorProto.INT32, [])]
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node(
            "GroupQueryAttention",
            ["e", "e", "e", "past_key_values.0.key", "past_key_values.0.value", "seqlens_k", "total"],
            ["y", "present.0.key", "present.0.value"],
            domain="com.microsoft",
            num_heads=1,
            kv_num_heads=1,
        ),
    ]
    outputs = [value("y", TensorProto.FLOAT, ["b", "t", 8])]
    outputs += [value(f"present.0.{each}", TensorProto.FLOAT, ["b", 1, "all", 8]) for each in ("key", "value")]
    from onnx import numpy_helper

    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(normal(ROWS, 8), "table")])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    one = Sampler(ir.from_proto(proto), session(proto.SerializeToString()))
    feeds = one.sample(2, 6)
    assert feeds["seqlens_k"].tolist() == [5, 5] and feeds["total"] == 6 and one.meaningful


def test_settings_silence_a_model_to_check_it() -> None:
    nodes = "g = Gather (table, ids)  r = RandomNormalLike (g)  n = Mul (r, scales)  e = Add (g, n)"
    one = sampler("int64[b,t] ids, float[1] scales", nodes)
    assert one.sample()["scales"] == 1 and one.sample(family="check")["scales"] == 0
    assert one.meaningful and not one.is_random
    loud = sampler("int64[b,t] ids", "g = Gather (table, ids)  r = RandomNormalLike (g)  e = Add (g, r)")
    assert loud.is_random


def test_a_choice_by_a_number_takes_one_that_is_known() -> None:
    scores = "is16 = Equal (sr, rate)  w = Where (is16, none, infinite)  s = Add (s0, w)"
    one = sampler("int64[b,t] ids, int64 sr", "e = Gather (table, ids)", scores, rate=np.array(16000))
    assert one.sample()["sr"] == 16000 and one.meaningful


def test_what_is_not_understood_is_said() -> None:
    nodes = "g = Gather (table, ids)  f = Cast <to = 1> (knob)  e = Mul (g, f)"
    one = sampler("int64[b,t] ids, int64 knob", nodes)
    assert "knob" in one.reason and not one.meaningful
    dead = sampler("float[b,t,8] x", "a = Mul (x, none)  e = Identity (a)")
    assert "do not depend" in dead.reason
    text = "g (float[n,4] x) => (float[n,4] y) { l = Log (x)  m = Neg (x)  k = Log (m)  y = Add (l, k) }"
    lost = model(text)
    assert "finite" in Sampler(lost, session(lost)).reason


def test_a_model_that_runs_on_nothing() -> None:
    target = model("g (float[n,4] x) => (float[7,4] y) { y = Reshape (x, dims) }", dims=np.array([7, 4]))
    with pytest.raises(TargetError):
        Sampler(target, session(target))


def test_sizes_that_other_inputs_fix() -> None:
    nodes = "c = Conv <strides = [16]> (u, wave)  g = Transpose <perm = [0, 2, 1]> (c)  t = Gather (table, kinds)"
    wave = normal(8, 1, 16, scale=0.2)
    one = sampler(
        "float[b,samples] x, int64[b,12] kinds", f"u = Unsqueeze (x, ax1)  {nodes}  e = Add (g, t)", wave=wave
    )
    feeds: Mapping[str, Any] = one.sample(2, 40)
    assert feeds["x"].shape == (2, 192) and one.longest(64) == 12


def test_models_of_one_text() -> None:
    nodes = "g = Gather (table, ids)  e = Reshape (g, dims)"
    one = sampler("int64[batch,t] ids", nodes, dims=np.array([1, -1, 8]))
    assert one.rows(4, 8) == 4  # joined end to end it runs
    single = sampler("int64[batch,t] ids", "g = Gather (table, ids)  e = Expand (g, dims)", dims=np.array([1, 1, 1]))
    assert single.rows(4, 8) == 4
    target = model(
        "g (int64[batch,t] ids) => (float[one,t,8] y) { g = Gather (table, ids)  y = Squeeze (g, ax) }",
        table=normal(ROWS, 8),
        ax=np.array([0]),
    )
    assert Sampler(target, session(target)).rows(4, 8) == 1


def test_padding_without_a_place_does_not_hide_where_places_end() -> None:
    nodes = """
        g = Gather (words, ids)  pads = Equal (ids, one)  real = Not (pads)  n = Cast <to = 7> (real)
        count = CumSum (n, one)  at = Mul (count, n)  place = Gather (table, at)  e = Add (g, place)"""
    one = sampler("int64[b,t] ids", nodes, words=normal(3, 8), table=normal(ROWS, 8))
    assert one.longest(2 * ROWS) == ROWS - 1
    assert sampler("int64[b,t] ids", "e = Gather (table, ids)").longest(2 * ROWS) == 2 * ROWS


@pytest.mark.parametrize("inputs", ["int64[b,t] ids", "float[b,t,8] x"])
def test_what_is_cut_into_blocks_takes_whole_ones(inputs: str) -> None:
    rows = "g = Gather (table, ids)" if "ids" in inputs else "g = Identity (x)"
    one = sampler(inputs, f"{rows}  e = Reshape (g, blocks)", blocks=np.array([0, -1, 32]), wq=WIDE, wk=WIDE, wo=WIDE)
    name = inputs.rsplit(maxsplit=1)[-1]
    assert [one.sample(1, length)[name].shape[1] % 4 for length in (7, 24, 130)] == [0, 0, 0]
    assert one.sample(1, one.longest(130))[name].shape == one.sample(1, 130)[name].shape


def test_feeds_run() -> None:
    one = sampler("int64[b,t] ids", "e = Gather (table, ids)")
    target = model("g (int64[b,t] ids) => (float[b,t,8] y) { y = Gather (table, ids) }", table=normal(ROWS, 8))
    assert run(session(target), one.sample(2, 3))[0].shape == (2, 3, 8)


@pytest.mark.parametrize(
    ("inputs", "wanted"),
    [
        ("float[n] x", {"x": (16000,)}),
        ("float[b,n] x", {"x": (2, 16000)}),
        ("int64[n] ids, int64[b,seq] more", {"ids": (12,), "more": (2, 12)}),
        ("int64[n] ids, int64[n,seq] more", {"ids": (2,), "more": (2, 12)}),
        ("int64[n] lengths, float[n,seq,8] e", {"lengths": (2,), "e": (2, 48, 8)}),
    ],
)
def test_n_is_a_batch_where_there_is_another_axis(inputs: str, wanted: dict[str, tuple[int, ...]]) -> None:
    """Sound of ``n`` samples had one; `n` texts beside each other are as many."""
    declared = inputs_of(
        ir.from_proto(
            handmade.model(f"{HEAD} g ({inputs}) => (float y) {{ y = Identity (one) }}", one=np.array(1, np.float32))
        )
    )
    kinds = {"x": "audio", "ids": "ids", "more": "ids", "lengths": "length", "e": "features"}
    meanings = {one.name: Meaning(kinds[one.name]) for one in declared}
    sizes = Sizes(declared, meanings, FreeSizes(batch=2, sequence=12, frames=4))
    assert {one.name: sizes.shape(one) for one in declared} == wanted


def test_a_loop_runs() -> None:
    one = sampler(
        "int64 rounds, float[batch,seq,8] x",
        """e = Loop (rounds, , x) <body = b (int64 i, bool go, float[b,s,8] old) => (bool on, float[b,s,8] new) {
            on = Identity (go)  new = MatMul (old, square) }>""",
        square=normal(8, 8),
    )
    assert kinds(one)["rounds"] == "setting" and one.sample(1, 4)["rounds"] == 2
