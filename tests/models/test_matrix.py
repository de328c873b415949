"""The matrix of architectures: a quick slice of it, its table, and all of it by a marker."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from bct_onnx.errors import InputModelError, TargetError
from bct_onnx.recipe import choose
from models.matrix import exports
from models.matrix.exports import EXPORTERS, files, impossible
from models.matrix.families import FAMILIES
from models.matrix.judge import BOUNDS, PRESETS, RECIPES, compared, judge, recipe_of
from models.matrix.samples import samples_of
from models.matrix.table import Found, markdown

pytestmark = pytest.mark.filterwarnings("ignore")  # of exporters

SLICE = (
    ("bert", "legacy", "fp32"),
    ("bart", "optimum-cache", "fp32"),
    ("vit", "legacy", "fp16"),
    ("bert", "dynamo-23", "bf16"),
)
"""An encoder, an encoder-decoder in four files, one of them with both steps in branches, and models of 16 bits."""


@pytest.mark.export
@pytest.mark.whole
@pytest.mark.parametrize(("family", "exporter", "dtype"), SLICE)
def test_a_quick_slice(family: str, exporter: str, dtype: str, made_once: Callable[..., Path]) -> None:
    cache = made_once("matrix", Path.mkdir)
    made = files(cache, family, exporter, dtype)
    assert isinstance(made, list) and made, made
    for preset in ("lift", "fast"):
        verdict = judge(made, preset, dtype)
        assert verdict.status == "pass", verdict


@pytest.mark.export
@pytest.mark.matrix
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_matrix(family: str, exporter: str, dtype: str, made_once: Callable[..., Path]) -> None:
    """No cell is wrong; what the exporter cannot make is none."""
    made = files(made_once("matrix", Path.mkdir), family, exporter, dtype)
    if not isinstance(made, str):
        verdicts = {preset: judge(made, preset, dtype, recipe_of(family)) for preset in PRESETS}
        assert not {preset: one for preset, one in verdicts.items() if one.status == "failed"}


def test_recipes_are_for_families_and_fit_every_preset() -> None:
    found = sorted(RECIPES.glob("*.toml"))
    assert found and {path.stem for path in found} <= set(FAMILIES)
    for path, preset in itertools.product(found, PRESETS[1:]):
        assert choose(preset=preset, recipe=path) != choose(preset=preset)


def test_at_least_forty_families_of_every_kind() -> None:
    tried = [name for name, one in FAMILIES.items() for exporter in EXPORTERS if not impossible(one, exporter, "fp32")]
    assert len(FAMILIES) >= 40 and len(tried) >= 4 * len(FAMILIES)
    assert sum(one.caches for one in FAMILIES.values()) >= 20


CACHED = """<ir_version: 10, opset_import: ["" : 21]>
    cached (int64[batch, sequence] input_ids, int64[batch, total] attention_mask, int64[batch, sequence] position_ids,
            float[batch, 2, past, 4] past_key_values.0.key) => (float[batch, 2, past, 4] same) {
        same = Identity (past_key_values.0.key)
    }"""


def test_a_cache_has_a_step_with_a_past(tmp_path: Path) -> None:
    text = CACHED.replace("past_key_values.0.key", "past_key_values_0_key")
    onnx.save(onnx.parser.parse_model(text), tmp_path / "cached.onnx")
    first, second, third = samples_of(tmp_path / "cached.onnx")
    assert [one["past_key_values_0_key"].shape for one in (first, second, third)] == [
        (1, 2, 0, 4),
        (3, 2, 0, 4),
        (2, 2, 5, 4),
    ]
    assert third["attention_mask"].shape == (2, 8) and third["input_ids"].shape == (2, 3)
    np.testing.assert_array_equal(third["position_ids"][0], [5, 6, 7])


def test_an_error_of_the_exporter_is_kept_and_no_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(family: object, dtype: str, folder: Path) -> None:
        (folder / "half.onnx").touch()
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setitem(exports.EXPORTERS, "legacy", fail)
    for _ in range(2):
        assert files(tmp_path, "bert", "legacy", "fp32") == "RuntimeError: no such operator"
        monkeypatch.setitem(exports.EXPORTERS, "legacy", lambda *_: pytest.fail("exported again"))
    assert files(tmp_path, "bert", "optimum-cache", "fp32") == exports.NOTHING_TO_CACHE


@pytest.mark.whole
def test_an_export_that_ends_the_process_of_the_runtime_has_a_reason(tmp_path: Path) -> None:
    """As Longformer's in 16 bits does. Afterwards all goes on."""
    with pytest.raises(TargetError, match="ONNX Runtime ended the process") as caught:
        exports._apart(end, tmp_path)
    assert caught.value.why == "it crashes on this file"
    exports._apart(exports.runnable, _product(tmp_path / "right.onnx", 1))
    with pytest.raises(InputModelError):
        exports._apart(exports.runnable, tmp_path / "none.onnx")


def end(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def test_what_computes_something_else_fails(tmp_path: Path) -> None:
    """A bound that a wrong result passes would be none."""
    right, wrong = (_product(tmp_path / f"{sign}.onnx", sign) for sign in (1, -1))
    verdict = judge([right], "fast", "fp32")
    assert verdict.status == "pass" and verdict.sqnr_db is not None and verdict.sqnr_db > BOUNDS["fast"]
    verdict = compared(right, wrong, samples_of(right), min(BOUNDS.values()))
    assert verdict.status == "failed" and "SQNR -6.0 dB" in verdict.reason


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.onnx").write_bytes(b"no model")
    assert judge([tmp_path / "b.onnx"], "fast", "fp32").status == "refused"


def _product(path: Path, sign: int) -> Path:
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        product (float[n, 64] x) => (float[n, 64] y) { y = MatMul (x, w) }"""
    )
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(sign * weight, "w"))
    onnx.save(proto, path)
    return path


def test_the_table_tells_all_apart() -> None:
    verdict = {"status": "pass", "sqnr_db": 20.0, "reason": "", "seconds": 1.0}
    found: Found = {
        "exports": {
            "bert/optimum-fp32": "",
            "bert/optimum-cache-fp32": exports.NOTHING_TO_CACHE,
            "gpt2/optimum-fp32": "",
            "gpt2/legacy-fp32": "RuntimeError: unordered_map::at",
        },
        "cells": {
            "bert/optimum-fp32/fast": verdict,
            "gpt2/optimum-fp32/fast": {**verdict, "status": "refused", "reason": "the 'thing' is new"},
            "gpt2/optimum-fp32/ort-dynamic": {**verdict, "status": "failed", "reason": "model: SQNR 0.3 dB, bound 5"},
        },
    }
    text = markdown(found)
    assert "| fp32, `fast` | 2 | 1 (50.0 %) | 1 | 0 | 5 | 20 |" in text
    assert "| bert | ok | - |  |  |  |" in text
    assert "| gpt2 | fast refused |  | ! | 0 of 1 |  |" in text
    assert "| fast | refused: the … is new | gpt2/optimum-fp32 |" in text
    assert "| `quantize_dynamic` | failed: SQNR … dB, bound 5 | gpt2/optimum-fp32 |" in text
    assert "| exporters | other errors, each of one export | 1 exports |" in text
    found["exports"]["gpt-neox/legacy-fp32"] = "RuntimeError: unordered_map::at"
    text = markdown(found)
    assert "| legacy (exporter) | RuntimeError: unordered_map::at | gpt2/legacy-fp32, gpt-neox/legacy-fp32 |" in text
    assert "| exporters |" not in text
