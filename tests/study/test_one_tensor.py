"""One tensor from all sides: which one is meant, what is told of it, and that the figures are those of a study."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bct_onnx import registry
from bct_onnx.errors import UsageError
from bct_onnx.graph.load import load
from bct_onnx.runtime.statistics import ChannelStatistics
from bct_onnx.study.by_tensor import by_tensor
from bct_onnx.study.candidates import open_study
from bct_onnx.study.comparison import Measuring
from bct_onnx.study.distribution import of_channels, of_values
from bct_onnx.study.naming import find
from bct_onnx.study.one_tensor import Explanation, explain
from tests.graph import handmade
from tests.study.test_by_ingredient import quiet

UNTIMED = Measuring(rounds=0)
STORE = "quantize-embeddings,quantize-weights{solver=gptq}"
MOVE = "lift,calibrate{samples=8 products=true},smooth,balance"
SOME = ((2, 32), (4, 32), (8, 32), (8, 64))
DENSE = "onnx::MatMul_428"


def look(model: Path, name: str, text: str = f"{MOVE},{STORE},quantize-activations,halve-floats") -> Explanation:
    with open_study(model, "ort-cpu", UNTIMED, quiet) as opened:
        return explain(opened, registry.parse(text), name, SOME)


def save(text: str, file: Path, **arrays: np.ndarray[Any, Any]) -> Path:
    onnx.save(handmade.model(text, **{name: array.astype(np.float32) for name, array in arrays.items()}), file)
    return file


@pytest.fixture(scope="module")
def dense(bundled_model: Path) -> Explanation:
    return look(bundled_model, "/bert/encoder/layer.0/output/dense/MatMul")


@pytest.fixture(scope="module")
def lifted(bundled_model: Path) -> ir.Model:
    model = load(bundled_model)
    registry.parse("normalize").passes[0](model)
    return model


@pytest.fixture
def outlying(tmp_path: Path) -> Path:
    """A normalization whose channel 5 is fifty times the others, between a table and a matrix."""
    graph = """<ir_version: 10, opset_import: ["" : 23]>
        g (int64[batch, sequence] input_ids) => (float[batch, sequence, 64] y) {
            words = Gather (table, input_ids)  h = LayerNormalization (words, gamma, beta)  y = MatMul (h, weight) }"""
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape) for name, shape in {"table": (50, 64), "weight": (64, 64)}.items()}
    arrays |= {"gamma": np.where(np.arange(64) == 5, 50.0, 1.0), "beta": np.zeros(64)}
    return save(graph, tmp_path / "m.onnx", **arrays)


def test_what_it_is(dense: Explanation, bundled_model: Path) -> None:
    assert (dense.name, dense.kind, dense.dtype, dense.shape) == (DENSE, "matmul", "FLOAT", (512, 128))
    assert dense.users == (("MatMul", "/bert/encoder/layer.0/output/dense/MatMul"),)
    assert dense.axes == ("inputs", "outputs") and dense.nbytes == 4 * 512 * 128 and 0.04 < dense.share < 0.05
    stored = onnx.numpy_helper.to_array(
        next(one for one in onnx.load(bundled_model).graph.initializer if one.name == DENSE)
    )
    assert dense.exported.maximum == stored.max() and dense.exported.minimum == stored.min()
    rows = np.sqrt(np.square(stored.astype(np.float64)).mean(axis=1))
    at, times = dense.exported.outliers[0][0]
    assert at == rows.argmax() and times == pytest.approx(rows.max() / np.median(rows), abs=1e-3)


def test_each_format_is_that_of_a_study_by_tensor(dense: Explanation, bundled_model: Path) -> None:
    """Bits, error by itself, error in the product, and the outputs."""
    assert [one.text.split(",")[0] for one in dense.trials] == [
        "quantize-weights: int2 b32 two-level signed",
        "quantize-weights: int4 b32 two-level signed",
        "quantize-weights: int8 b32 two-level",  # whose blocks of 64 are the same
    ]
    weights = [one.weight for one in dense.trials if one.weight]
    outputs = [one.figures.sqnr_db for one in dense.trials if one.figures]
    for figures in ([one.bits for one in weights], [one.sqnr_db for one in weights], outputs):
        assert figures == sorted(set(figures)) and len(figures) == 3
    assert all(one.weighted_db > one.sqnr_db + 5 for one in weights)
    text = f"{MOVE},quantize-weights{{solver=gptq bits=2 formats=2/32:{DENSE}|32:*}}"
    with open_study(bundled_model, "ort-cpu", UNTIMED, quiet) as opened:
        (row,) = by_tensor(opened, registry.parse(text)).rows
    assert row == dense.trials[0]


def test_what_the_pipeline_does(dense: Explanation) -> None:
    said = {one.by: one for one in dense.said}
    assert list(said) == ["balance", "quantize-weights", "quantize-activations"]
    assert all(one.changed for one in dense.said)
    assert said["quantize-weights"].text.startswith("int4 b32 two-level signed") and "factor" in said["balance"].text
    assert dense.stored == dense.trials[1]


def test_what_moves_outliers_shows(outlying: Path) -> None:
    found = look(outlying, "weight")
    assert found.source == "h" and found.measured is not None and found.moved is not None
    (before,), (after,) = found.measured.outliers, found.moved.outliers
    assert before[0][0] == 5 and before[0][1] > 20 and after[0][1] < before[0][1] / 4
    assert found.moved.maximum < found.measured.maximum / 4
    assert found.prepared is not None and found.prepared.outliers[0][0][0] == 5
    assert found.prepared.outliers[0][0][1] > 4 > found.exported.outliers[0][0][1]
    (smoothed,) = (one for one in found.said if one.by == "smooth")
    assert smoothed.changed and "largest factor" in smoothed.text


def test_a_pipeline_that_does_not_calibrate_has_measured_nothing(outlying: Path) -> None:
    found = look(outlying, "weight", "normalize,quantize-weights{bits=3 block=16}")
    assert found.source == "h" and found.measured is None and found.moved is None and found.prepared is None
    assert [one.text.split()[1] for one in (found.stored, *found.trials) if one] == ["int3", "int2", "int4", "int8"]
    assert all(one.weight and one.weight.weighted_db == one.weight.sqnr_db for one in found.trials)


def test_a_table_that_is_tied(tmp_path: Path) -> None:
    graph = """<ir_version: 10, opset_import: ["" : 23]>
        g (int64[batch, sequence] input_ids) => (float[batch, sequence, 64] logits) {
            words = Gather (table, input_ids)  t = Transpose (table)  logits = MatMul (words, t) }"""
    save(graph, tmp_path / "m.onnx", table=np.random.default_rng(0).standard_normal((64, 32)))
    found = look(tmp_path / "m.onnx", "table")
    assert found.axes == ("rows", "channels") and {operator for operator, _ in found.users} == {"Gather", "MatMul"}
    assert found.source == "words" and found.measured is not None
    assert found.stored is not None and found.stored.text.endswith("tied output layer")
    assert len(found.trials) == 3 and [one.by for one in found.said if one.name == "table"] == ["quantize-embeddings"]


def test_what_stays_float_and_why(bundled_model: Path) -> None:
    small = look(bundled_model, "classifier", f"normalize,{STORE}")
    assert small.name == "classifier.weight" and small.axes == ("outputs", "inputs") and small.stored is None
    assert [(one.by, one.text) for one in small.said] == [("quantize-weights", "fewer than 1024 values")]
    assert not small.said[0].changed and len(small.trials) == 3, "what it would be if it were not too small"
    kept = look(bundled_model, DENSE, f"normalize,quantize-weights{{keep={DENSE}}}")
    assert kept.stored is None and kept.said[0].text == "kept by option keep" and len(kept.trials) == 3


def test_a_vector_has_no_formats(bundled_model: Path) -> None:
    found = look(bundled_model, "bert.embeddings.LayerNorm.weight", "normalize,calibrate,smooth,halve-floats")
    assert (found.kind, found.axes, found.exported.outliers, found.source) == ("norm", (), (), "")
    assert found.stored is None and found.trials == ()
    assert [(one.by, one.changed) for one in found.said] == [("smooth", False), ("halve-floats", True)]


def test_json_has_no_infinities(dense: Explanation) -> None:
    found = json.loads(json.dumps(dense.as_dict(), allow_nan=False))
    assert found["users"] == [{"operator": "MatMul", "name": dense.users[0][1]}]
    assert found["stored"]["outputs"]["sqnr_db"] == pytest.approx(found["trials"][1]["outputs"]["sqnr_db"])
    assert found["measured"]["kurtosis"] is None and found["exported"]["outliers"][1][0]["times"] > 1
    assert found["said"][1]["text"].startswith("int4")


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        (DENSE, DENSE),
        ("/bert/encoder/layer.0/output/dense/MatMul", DENSE),
        ("layer.0.output.dense", DENSE),  # and its bias, but a matrix goes first
        ("*layer.0/output/dense.bias", "bert.encoder.layer.0.output.dense.bias"),
        ("*/intermediate/dense/*[!12]", None),
        ("embeddings.LayerNorm.bias", "bert.embeddings.LayerNorm.bias"),
        ("word_emb", "bert.embeddings.word_embeddings.weight"),
    ],
)
def test_which_tensor_is_meant(wanted: str, name: str | None, lifted: ir.Model) -> None:
    if name is None:
        with pytest.raises(UsageError, match="fits 3 tensors") as caught:
            find(lifted, wanted)
        assert "onnx::MatMul_443  /bert/encoder/layer.1/intermediate/dense/MatMul" in str(caught.value)
    else:
        assert find(lifted, wanted) == name


def test_names_that_nothing_has(lifted: ir.Model) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'bert\.pooler\.dense\.weight' or"):
        find(lifted, "bert.poler.dense.weight")
    with pytest.raises(UsageError, match="see 'bct-onnx inspect --json'"):
        find(lifted, "zzz")


def test_a_name_that_many_have(lifted: ir.Model) -> None:
    with pytest.raises(UsageError, match=r"'\*' fits 23 tensors") as caught:  # all matrices
        find(lifted, "*")
    assert "and 11 more" in str(caught.value)


@pytest.mark.parametrize("shape", [(), (7,), (300, 5000), (3, 4, 5)], ids=str)
def test_spread_of_values(shape: tuple[int, ...]) -> None:
    array = (np.random.default_rng(0).laplace(2.0, 1.0, shape)).astype(np.float16)
    wide = np.asarray(array, np.float64)
    found = of_values(array)
    assert (found.minimum, found.maximum) == (wide.min(), wide.max())
    assert found.rms == pytest.approx(np.sqrt(np.square(wide).mean()))
    assert len(found.outliers) == (2 if len(shape) == 2 else 0)
    if len(shape) == 0:
        assert math.isnan(found.kurtosis or 0) and found.largest == pytest.approx(1)
    else:
        expected = (np.square(wide - wide.mean()) ** 2).mean() / wide.var() ** 2
        assert found.kurtosis == pytest.approx(expected, rel=1e-6)


def test_spread_of_nothing_but_zeros() -> None:
    found = of_values(np.zeros((4, 4), np.float32))
    assert found.outliers == ((), ()) and math.isnan(found.largest) and found.as_dict()["kurtosis"] is None


def test_spread_of_channels() -> None:
    values = np.array([[1.0, -8.0, 2.0], [-2.0, 4.0, 1.0]])
    found = of_channels(ChannelStatistics.of(values))
    assert (found.minimum, found.maximum, found.kurtosis) == (-8.0, 4.0, None)
    assert found.rms == pytest.approx(np.sqrt(np.square(values).mean()))
    assert found.outliers == (((1, 4.0), (0, 1.0), (2, 1.0)),)
