"""What a mask is where every token is real, and attention without it."""

from __future__ import annotations

import pytest

from bct_onnx.graph.padding.copies import copied
from bct_onnx.graph.padding.unmasked import without_mask
from tests.passes import small

ADDED = "real = Cast <to = 1> (mask)  hidden = Sub (one, real)  keep = Mul (hidden, most)"

MASKS = {
    "added": (ADDED, True),
    "true where it is kept": ("real = Cast <to = 9> (mask)  keep = Unsqueeze (real, axis)", True),
    "chosen": ("real = Cast <to = 9> (mask)  keep = Where (real, zero, most)", True),
    "true where it is hidden": ("real = Cast <to = 9> (mask)  keep = Not (real)", False),
    "a bias for each place": (f"{ADDED.replace('keep', 'added')}  keep = Add (added, places)", False),
    "earlier ones alone": (f"{ADDED.replace('keep', 'added')}  keep = Trilu (added)", False),
    "minus infinity times zero": (ADDED.replace("most", "infinite"), False),
}


@pytest.mark.parametrize("spelling", MASKS)
def test_attention_needs_no_mask_that_hides_nothing(spelling: str) -> None:
    nodes, goes = MASKS[spelling]
    model = small.model(
        f"""g (float[batch,length,8] x, int64[batch,length] mask, float[batch,length] places)
            => (float[batch,length,8] y)
        <float one = {{1.0}}, float zero = {{0.0}}, float most = {{-1e9}}, float infinite = {{-inf}},
         int64[1] axis = {{1}}>
        {{ {nodes}  y = Attention <q_num_heads = 2, kv_num_heads = 2> (x, x, x, keep) }}"""
    )
    attention, mask = model.graph[-1], model.graph.inputs[1]
    node = without_mask(copied(attention, {}), mask, hides=False)
    assert (node.inputs[3] is None) == goes
    assert attention.inputs[3] is not None


def test_a_mask_of_what_is_hidden_is_read_the_other_way_round() -> None:
    model = small.model(
        """g (float[batch,length,8] x, bool[batch,length] mask) => (float[batch,length,8] y)
        { keep = Not (mask)  y = Attention <q_num_heads = 2, kv_num_heads = 2> (x, x, x, keep) }"""
    )
    attention, mask = model.graph[-1], model.graph.inputs[1]
    assert without_mask(copied(attention, {}), mask, hides=True).inputs[3] is None
    assert without_mask(copied(attention, {}), mask, hides=False).inputs[3] is not None
