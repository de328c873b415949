"""A whole classifier whose last layer computes its first token alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bct_onnx import registry
from bct_onnx.base import Applied
from bct_onnx.graph.load import load
from bct_onnx.runtime.session import run, session
from passes.skip_unread_rows import SkipUnreadRows
from tests.passes.small import apply, everywhere, model, normal, ops


def test_the_bundled_classifier(bundled_model: Path) -> None:
    target = load(bundled_model)
    for one in registry.parse("lift,skip-unread-rows"):
        applied = one(target)
    assert isinstance(applied, Applied)
    (site,) = applied.sites
    assert site.before.count("MatMul") == 4 and site.before.count("Attention") == 1, site
    before, after = session(bundled_model), session(target)
    rng = np.random.default_rng(0)
    for texts, tokens in ((1, 1), (1, 9), (5, 12)):
        ids = rng.integers(3, 6000, (texts, tokens))
        mask = (np.arange(tokens) < rng.integers(1, tokens + 1, (texts, 1))).astype(np.int64)
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        for expected, result in zip(run(before, feeds), run(after, feeds), strict=True):
            np.testing.assert_allclose(result, expected, atol=1e-5)


def test_an_output_keeps_its_name() -> None:
    target = model(
        """g (float[b,s,4] x) => (float[b,1,4] y)
        <int64[1] zero = {0}, int64[1] one = {1}> { z = Tanh (x)  y = Slice (z, zero, one, one) }"""
    )
    x = normal(2, 5, 4)
    (expected,) = everywhere(target, x=x)
    apply(SkipUnreadRows(), target)
    assert [output.name for output in target.graph.outputs] == ["y"] and ops(target)["Slice"] == 1
    assert [node.outputs[0].name for node in target.graph][:2] == ["x.row", "z"], "a row is called after its value"
    np.testing.assert_array_equal(everywhere(target, x=x)[0], expected)


def test_tokens_chosen_at_run_time_are_no_site() -> None:
    target = model(
        "g (float[b,s,4] x, int64 which) => (float[b,4] y) { z = Tanh (x)  y = Gather <axis = 1> (z, which) }"
    )
    applied = apply(SkipUnreadRows(), target)
    assert not applied.sites and not applied.declined
