"""Thin tables lose what is looked up least, and go where there is no other way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.errors import UsageError
from bct_onnx.recipe import with_distilling, with_size
from bct_onnx.registry import parse
from bct_onnx.rewriting import Options, rewrite
from passes.thin_tables import ThinTables
from tests.graph.test_layers import BODY
from tests.passes import small

TEXT = "g (int64[n,s] ids) => (float[n,s,64] y) { y = Gather (table, ids) }"


def encoder(count: int = 4) -> ir.Model:
    """Layers over 5,000 words, of which the second and the third hardly do anything."""
    body = " ".join(BODY.format(n=n, x=f"r{n}", y=f"r{n + 1}") for n in range(count))
    sizes = {1: 0.001, 2: 0.002}
    arrays = {f"w{n}": small.normal(64, 64, seed=n, scale=sizes.get(n, 0.2)) for n in range(count)}
    text = f"g (int64[n,s] ids) => (float[n,s,64] y) {{ r0 = Gather (table, ids) {body} y = Identity (r{count}) }}"
    return small.model(text, table=small.normal(5000, 64, seed=9), **arrays)


def test_a_table_of_that_rank_is_met_mean_and_all() -> None:
    table = small.normal(5000, 12, seed=1) @ small.normal(12, 64, seed=2) + 3 * small.normal(64, seed=3)
    model = small.model(TEXT, table=table)
    small.apply(ThinTables(width=16), model)
    ids = np.array([[3, 4999, 0]])
    np.testing.assert_allclose(small.outputs(model, ids=ids)["disabled"][0], table[ids], atol=1e-3)


def test_values_of_thin_rows_are_of_the_same_size() -> None:
    """Few bits with a scale per row would lose all but the largest otherwise."""
    table = small.normal(5000, 64, seed=1) * np.geomspace(1, 100, 64).astype(np.float32)
    model = small.model(TEXT, table=table)
    small.apply(ThinTables(width=16), model)
    (thin,) = (value for name, value in model.graph.initializers.items() if name.endswith(".thin"))
    assert thin.const_value is not None
    sizes = np.square(thin.const_value.numpy()).mean(axis=0)
    assert sizes.max() < 10 * sizes.min()


def test_frequent_rows_lose_least(tmp_path: Path) -> None:
    np.savez(tmp_path / "ids.npz", tokens=np.arange(64 * 50) % 64, lengths=np.full(64, 50))
    errors: list[float] = []
    for data in ("", f'data="{tmp_path / "ids.npz"}"'):
        table = small.normal(5000, 64, seed=1)
        model = small.model(TEXT, table=table)
        rewrite(model, parse(f"thin-tables{{width=32}},calibrate{{{data}}}"), options=Options(check=False))
        ids = np.arange(64)[None]
        [result] = small.outputs(model, ids=ids)["disabled"][:1]
        errors.append(float(np.square(result - table[ids]).sum()))
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize(("ratio", "thin", "gone"), [(12, False, 0), (32, True, 0), (34.8, True, 2)])
def test_a_ratio_takes_what_it_needs_and_says_why(ratio: float, thin: bool, gone: int) -> None:
    stored = parse("calibrate,quantize-embeddings,quantize-weights")
    pipeline = with_size(with_distilling(stored, ratio), ratio=ratio)
    names = [each.name for each in pipeline]
    assert names[:2] == ["drop-layers", "thin-tables"]
    report = rewrite(encoder(), pipeline.passes[:-1], options=Options(check=False, accept=True))
    assert report.after.ratio_parameters >= ratio
    drop, thinned = report.steps[:2]
    assert (len(drop.sites), bool(thinned.sites)) == (gone, thin)
    assert ("formats alone" in drop.note) == (not thin)
    if gone:
        assert "of 4 layers stay" in drop.note
        assert "layers that stay: " in drop.note
        assert {site.name for site in drop.sites} == {"layer 1", "layer 2"}, "those that do least"


def test_senseless_options_are_refused() -> None:
    for text in ("thin-tables{width=12}", "thin-tables{ratio=-1}", "drop-layers{keep=0 ratio=9}"):
        with pytest.raises(UsageError, match="is not allowed"):
            parse(text)
