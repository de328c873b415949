"""Branches that are put in the place of their choice, and what becomes of the other one."""

from __future__ import annotations

import numpy as np

from passes.fold_constants import FoldConstants
from tests.passes import small

TEXT = """g (int64[n] ids) => (float[n,64] y) {
    yes = Constant <value = bool {1}> ()
    y = If (yes) <
        then_branch = t () => (float[n,64] a) { a = Gather (table, ids) },
        else_branch = e () => (float[n,64] b) { r = Gather (table, ids)  b = Neg (r) }
    >
}"""


def test_the_branch_that_goes_uses_nothing_any_more() -> None:
    model = small.model(TEXT, table=small.normal(100, 64))
    table = model.graph.initializers["table"]
    assert len(table.uses()) == 2
    small.apply(FoldConstants(), model)
    assert [use.node.graph for use in table.uses()] == [model.graph]
    ids = np.array([3, 99])
    assert (small.outputs(model, ids=ids)["all"][0] == small.normal(100, 64)[ids]).all()


def test_results_that_nobody_reads_go_with_their_choice() -> None:
    text = """g (float[n,64] x) => (float[n,64] y) {
        yes = Constant <value = bool {1}> ()
        y, unread, too = If (yes) <
            then_branch = t () => (float[n,64] a, float[n,64] b, float[n,64] c) {
                a = Neg (x)  b = Abs (x)  c = Exp (x) },
            else_branch = e () => (float[n,64] a2, float[n,64] b2, float[n,64] c2) {
                a2 = Abs (x)  b2 = Neg (x)  c2 = Exp (x) }
        >
    }"""
    model = small.model(text)
    small.apply(FoldConstants(), model)
    assert "If" not in small.ops(model)
    x = small.normal(2, 64)
    assert (small.outputs(model, x=x)["all"][0] == -x).all()
