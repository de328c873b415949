"""Formats of single weights, and the solvers that round them."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx import registry
from bct_onnx.errors import UsageError
from bct_onnx.graph.canonical import canonical_text
from bct_onnx.graph.save import embedded
from bct_onnx.quant import quantize
from bct_onnx.quant.solve import Solver
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.statistics import KEY, ChannelStatistics
from passes.quantize_weights import QuantizeWeights
from tests.passes.small import apply, close, matmul, model, normal, outputs

THREE = """g (float[n,64] x) => (float[n,32] a, float[n,32] b, float[n,32] c)
    { a = MatMul (x, one_q)  b = MatMul (x, two_q)  c = MatMul (x, two_k) }"""


def test_formats_of_single_weights() -> None:
    matrices = {name: normal(64, 32, seed=seed) for seed, name in enumerate(("one_q", "two_q", "two_k"))}
    target, x = model(THREE, **matrices), normal(3, 64, seed=9)
    one = QuantizeWeights(formats=("2/16:one_*", "32:*_k", "3/64:gone"))
    applied = apply(one, target)
    assert [site.note.split(" two-level")[0] for site in applied.sites] == ["int2 b16", "int4 b32"]
    assert [(left.name, left.nbytes) for left in applied.declined] == [("two_k", 64 * 32 * 4), ("3/64:gone", 0)]
    schemes = [dataclasses.replace(one.scheme, bits=2, block=16), one.scheme]
    want = [x @ quantize(matrices[name], scheme).dequantize() for name, scheme in zip(matrices, schemes, strict=False)]
    found = outputs(target, x=x)["disabled"]
    for got, wanted in zip(found, [*want, x @ matrices["two_k"]], strict=True):
        close(got, wanted, 1e-5)


def test_keep_wins_over_formats() -> None:
    target = model(THREE, **{name: normal(64, 32) for name in ("one_q", "two_q", "two_k")})
    applied = apply(QuantizeWeights(formats=("2:*",), keep=("two_*",)), target)
    assert [site.name for site in applied.sites] == ["one_q"]
    assert {left.reason for left in applied.declined} == {"kept by option keep"}


def test_formats_are_pipeline_text() -> None:
    text = "quantize-weights{formats=3/64:layer.0.*|32:/head/MatMul bits=2}"
    (one,) = registry.parse(text)
    assert one == QuantizeWeights(bits=2, formats=("3/64:layer.0.*", "32:/head/MatMul"))
    assert list(registry.parse(str(one))) == [one]
    with pytest.raises(UsageError, match="is no format"):
        registry.parse("quantize-weights{formats=3-64:a}")


def observed(target: ir.Model, *, random: bool = False) -> np.ndarray[Any, Any]:
    """Leave the statistics of correlated inputs at the first MatMul, whose input is computed; their XᵀX."""
    rows = normal(512, 64, seed=3) @ (normal(64, 64, seed=4) / 8 + np.eye(64, dtype=np.float32))
    value = target.graph[1].inputs[0]
    assert value is not None
    found = ChannelStatistics.of(rows, products=True)
    value.meta[KEY] = dataclasses.replace(found, random=random)
    assert found.products is not None
    return found.products


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_each_solver_is_better_at_the_output(bits: int) -> None:
    losses = []
    for solver in get_args(Solver):
        target = model("g (float[n,64] x) => (float[n,32] y) { h = Neg (x)  y = MatMul (h, w) }", w=normal(64, 32))
        products = observed(target)
        one = QuantizeWeights(bits=bits, solver=solver)
        apply(one, target)
        decoded = -outputs(target, x=np.eye(64, dtype=np.float32))["disabled"][0]
        error = normal(64, 32) - decoded
        losses.append(float(np.einsum("kn,kl,ln->", error, products, error)))
    assert losses[0] > 1.2 * losses[1] > 1.2 * 1.05 * losses[2]


@pytest.mark.parametrize(("random", "same"), [(False, 0.3 * 64 / 512), (True, 0.3)], ids=["text", "random tokens"])
def test_the_damping_follows_what_the_statistics_are_of(random: bool, same: float) -> None:
    texts = []
    for damping in (0.0, same, 1.0):
        target = model("g (float[n,64] x) => (float[n,32] y) { h = Neg (x)  y = MatMul (h, w) }", w=normal(64, 32))
        observed(target, random=random)
        apply(QuantizeWeights(solver="gptq", damping=damping), target)
        texts.append(embedded(target).SerializeToString(deterministic=True))
    assert texts[0] == texts[1] != texts[2]


def test_a_solver_without_products_says_so() -> None:
    target = matmul(64, 32)
    (site,) = apply(QuantizeWeights(solver="refined"), target).sites
    assert site.note.endswith("nearest: no XᵀX")
    plain = matmul(64, 32)
    (site,) = apply(QuantizeWeights(), plain).sites
    assert "nearest" not in site.note and canonical_text(plain) == canonical_text(target)


FLOATS = ("portable", "ort-cpu", "ort-cpu@1.20", "ort-cuda", "openvino", "web", "webgpu")
CODES = ("portable", "ort-cpu", "ort-cpu@1.20", "web")


@pytest.mark.parametrize(
    ("target", "activations"),
    [*((name, "") for name in FLOATS), *((name, ",quantize-activations") for name in CODES)],
)
@pytest.mark.parametrize("bits", [5, 6])
def test_five_and_six_bits_on_every_target(bits: int, target: str, activations: str) -> None:
    table, w = normal(40, 64), normal(64, 32, seed=1)
    text = "g (int64[n] ids) => (float[n,32] y) { h = Gather (table, ids)  y = MatMul (h, w) }"
    graph = model(text, table=table, w=w)
    pipeline = f"quantize-embeddings{{bits={bits}}},quantize-weights{{bits={bits}}}{activations}"
    assert rewrite(graph, pipeline, target=target, options=Options(check=False)).changed
    rows, scheme = quantize(table.T, QuantizeWeights(bits=bits).scheme), QuantizeWeights(bits=bits).scheme
    ids = np.array([0, 39, 7])
    want = rows.dequantize().T[ids] @ quantize(w, scheme).dequantize()
    for (got,) in outputs(graph, ids=ids).values():
        close(got, want, 2e-2)
