"""Numbers that stand for places: lengths as parts of the longest, and indices into what the model computes."""

from __future__ import annotations

import numpy as np
import pytest

from bct_onnx.runtime.session import session
from bct_onnx.runtime.understanding import Sampler
from bct_onnx.runtime.understanding.uses import uses_of
from tests.passes.small import model, normal
from tests.runtime.understood import PLACES, ROWS, kinds, sampler

PARTS = """
    counted = Cast <to = 1> (size)  whole = Mul (lens, counted)  near = Round (whole)  l = Unsqueeze (near, ax1)
    places = Cast <to = 1> (at)  known = Less (places, l)  m4 = Unsqueeze (known, ax1)
    w = Where (m4, none, infinite)  s = Add (s0, w)"""


def test_lengths_may_be_parts_of_the_longest() -> None:
    """Read as any number some hide all tokens, and outputs are NaN whatever comes in."""
    heard = sampler("float[batch,time,8] feats, float[batch] lens", f"e = Identity (feats) {PLACES}", PARTS)
    assert kinds(heard)["lens"] == "part" and heard.meaningful
    assert (heard.sample(2, 9)["lens"] == 1).all()
    padded = heard.sample(8, 30, padding=True)["lens"]
    assert padded[0] == 1 and padded.min() >= 0.5 and np.unique(padded).size > 3


def test_what_picks_from_computed_values_stays_within_the_shortest_row() -> None:
    nodes = """
        g = Gather (table, ids)  first = Gather <axis = 2> (spans, zero)  told = Mul (first, span_mask)
        at = Unsqueeze (told, ax2)  wide = Expand (at, sizes)  e = GatherElements <axis = 1> (g, wide)"""
    inputs = "int64[b,t] ids, int64[b,s,2] spans, int64[b,s] span_mask"
    picking = sampler(inputs, nodes, sizes=np.array([1, 1, 8]))
    assert kinds(picking)["spans"] == "picks" and kinds(picking)["span_mask"] == "mask" and picking.meaningful
    drawn = picking.sample(4, 20, padding=True)["spans"]
    assert drawn.min() == 0 and 6 < drawn.max() < 10


def test_ids_that_a_mask_hides_are_ids() -> None:
    nodes = "real = Mul (x, attention_mask)  e = Gather (table, real)"
    assert kinds(sampler("int64[b,t] x, int64[b,t] attention_mask", nodes))["x"] == "ids"


def test_a_mask_of_integers_may_be_a_term_of_the_scores() -> None:
    nodes = "e = Gather (table, ids)  p4 = Unsqueeze (penalty, ax1)  term = Cast <to = 1> (p4)"
    masked = sampler("int64[b,t] ids, int32[b,t] penalty", nodes, "s = Add (s0, term)")
    drawn = masked.sample(4, 20, padding=True)["penalty"]
    assert set(np.unique(drawn)) == {-10_000, 0} and not drawn[0].any()
    fused = model(
        """g (int64[b,t] ids, int32[b,t] penalty) => (float[b,t,8] y) <float[b,1,1,t] term>
            { e = Gather (table, ids)
            p4 = Unsqueeze (penalty, axes)  term = Cast <to = 1> (p4)
            y = Attention <q_num_heads = 1, kv_num_heads = 1> (e, e, e, term) }""",
        table=normal(ROWS, 8),
        axes=np.array([1, 2]),
    )
    assert "bias" in uses_of(fused)["penalty"].arrives


@pytest.mark.parametrize(
    ("declared", "nodes", "kind"),
    [
        ("int64[b] at", "place = Identity (at)", "length"),
        ("int64[b] at", "place = Sub (at, one)", "length"),
        ("int64[b,t] at", "n = ReduceSum <keepdims = 0> (at, ax1)  place = Sub (n, one)", "mask"),
    ],
)
def test_a_place_in_rows_laid_end_to_end(declared: str, nodes: str, kind: str) -> None:
    """x[arange(batch), place], as torch's older exporter writes it: no input is named after what it is."""
    indexed = model(
        f"""g (int64[b,t] ids, {declared}) => (float[b,8] y)
            {{ x = Gather (table, ids)  {nodes}
            s = Shape (x)  batch = Gather (s, zero)  t = Gather (s, one)  row = Range (zero, batch, one)
            flat = Flatten <axis = 2> (x)  first = Mul (row, t)  index = Add (place, first)
            y = Gather (flat, index) }}""",
        table=normal(ROWS, 8),
        zero=np.array(0),
        one=np.array(1),
        ax1=np.array([1]),
    )
    understood = Sampler(indexed, session(indexed))
    assert kinds(understood)["at"] == kind and understood.meaningful
