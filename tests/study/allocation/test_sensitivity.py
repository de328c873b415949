"""What errors in the rows of a table do to the outputs, measured by running the model alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx import registry
from bct_onnx.base import Applied
from bct_onnx.runtime.session import run, session
from bct_onnx.runtime.statistics import SENSITIVITY
from bct_onnx.study.allocation import sensitivity
from tests.passes import small
from tests.study.allocation.small import tokens

ROWS, LENGTH = 5000, 32
LINEAR = """
linear (int64[batch, sequence] input_ids) => (float[batch, sequence, WIDTH] last_hidden_state)
{
    x = Gather(table, input_ids)
    last_hidden_state = MatMul(x, weight)
}
"""


def calibrated(folder: Path, width: int, rows: int = ROWS) -> tuple[ir.Model, Applied]:
    weight = small.normal(LENGTH, width, seed=2) * np.geomspace(0.1, 1, LENGTH, dtype=np.float32)[:, None]
    table = small.normal(rows, LENGTH, seed=1)
    model = small.model(LINEAR.replace("WIDTH", str(width)), table=table, weight=weight)
    (calibrate,) = registry.parse(f"calibrate{{data={tokens(folder)} samples=4 tables=true}}")
    return model, calibrate(model)


def constant(model: ir.Model, name: str) -> np.ndarray[Any, Any]:
    value = model.graph.initializers[name].const_value
    assert value is not None
    return value.numpy()


def test_of_a_linear_model_it_is_its_weight_times_itself(tmp_path: Path) -> None:
    model, _ = calibrated(tmp_path, 48)
    measured = model.graph.initializers["table"].meta[SENSITIVITY]
    weight = constant(model, "weight")
    expected = weight @ weight.T
    measured, expected = measured / np.trace(measured), expected / np.trace(expected)
    assert np.linalg.norm(measured - expected) < 0.1 * np.linalg.norm(expected)


def test_measuring_changes_nothing(tmp_path: Path) -> None:
    model, applied = calibrated(tmp_path, 48)
    assert not applied.modified
    assert (constant(model, "table") == small.normal(ROWS, LENGTH, seed=1)).all()


def test_small_tables_are_left_out(tmp_path: Path) -> None:
    model, applied = calibrated(tmp_path, 48, rows=1000)
    assert SENSITIVITY not in model.graph.initializers["table"].meta
    assert not applied.declined


def test_models_that_would_take_too_long_are_declined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "WORK", 1e3)
    model, applied = calibrated(tmp_path, 48)
    assert SENSITIVITY not in model.graph.initializers["table"].meta
    (declined,) = applied.declined
    assert "multiplications" in declined.reason


def test_codes_of_the_table_go_by_it(tmp_path: Path) -> None:
    model, _ = calibrated(tmp_path, 48)
    weight = constant(model, "weight")
    plain = model.clone()
    del plain.graph.initializers["table"].meta[SENSITIVITY]
    lost: list[float] = []
    for each in (model, plain):
        (store,) = registry.parse(f"quantize-embeddings{{solver=refined formats=@2({ROWS}):table}}")
        (site,) = store(each).sites
        assert site.error is not None
        (outputs,) = run(session(each), {"input_ids": np.arange(400, dtype=np.int64)[None]})
        exact = small.normal(ROWS, LENGTH, seed=1)[:400] @ weight
        lost.append(float(np.square(outputs[0] - exact).sum()))
    assert lost[0] < 0.8 * lost[1]
