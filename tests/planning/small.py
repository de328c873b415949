"""A small language model with a table of 400 rows and three weights, one of which matters most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from bct_onnx import registry
from bct_onnx.pipeline import Pipeline
from tests.passes import small

TEXT = """
small (int64[batch, sequence] input_ids) => (float[batch, sequence, 80] logits)
{
    x = Gather(table, input_ids)
    a = MatMul(x, loud)
    b = MatMul(x, quiet)
    c = Add(a, b)
    d = Relu(c)
    logits = MatMul(d, head)
}
"""
PIPELINE = "calibrate{samples=8 products=true},quantize-embeddings,quantize-weights{solver=gptq}"


def pipeline(text: str = PIPELINE) -> Pipeline:
    return registry.parse(text)


def model() -> ir.Model:
    return small.model(
        TEXT,
        table=small.normal(400, 64, seed=1),
        loud=small.normal(64, 64, seed=2),
        quiet=small.normal(64, 64, seed=3, scale=0.05),
        head=small.normal(64, 80, seed=4, scale=0.1),
    )


def write(folder: Path) -> Path:
    file = folder / "small.onnx"
    onnx.save(ir.to_proto(model()), file)
    return file


def tokens(folder: Path, rows: int = 40) -> Path:
    """Token ids of which the first ten are by far the most frequent."""
    rng = np.random.default_rng(0)
    ids = np.where(rng.random((rows, 12)) < 0.8, rng.integers(0, 10, (rows, 12)), rng.integers(0, 400, (rows, 12)))
    file = folder / "tokens.npz"
    np.savez(file, input_ids=ids.astype(np.int64))
    return file


def quiet(label: str, done: int, total: int) -> None:
    """No progress."""
