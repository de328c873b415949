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


def own_text(folder: Path, rows: int = 24, length: int = 24) -> Path:
    """Token ids that the model itself finds likely, so that it has a perplexity to lose."""
    from bct_onnx.runtime.session import run, session

    rng, runner = np.random.default_rng(1), session(model())
    ids = rng.integers(0, 80, (rows, 1))
    for _ in range(length - 1):
        logits = run(runner, {"input_ids": ids})[0][:, -1]
        likely = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        ids = np.concatenate([ids, likely[:, None]], axis=1)
    file = folder / "own.npz"
    np.savez(file, tokens=ids.astype(np.int16).ravel(), lengths=np.full(rows, length, np.int32))
    return file
