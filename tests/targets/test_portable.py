"""Portable files are computed alike: by ONNX Runtime, by ONNX's reference evaluator and by OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from bct_onnx import registry
from bct_onnx.graph.load import load
from bct_onnx.quant import Error
from bct_onnx.runtime.feeds import Feeds, random_feeds
from bct_onnx.runtime.session import run, session
from bct_onnx.runtime.vocabulary import vocabulary
from bct_onnx.targets import find
from tests.whole_models import Compressed

LEAST = 40.0
"""dB between two runtimes: integer codes on the edge between two numbers fall to either side."""

PRESETS = [name for name in registry.PRESETS if name != "lift"]


def _feeds(file: Path, batch: int, tokens: int) -> Feeds:
    model = load(file)
    return random_feeds(model, batch=batch, sequence=tokens, seed=tokens, vocab=vocabulary(model), padding=batch > 1)


def _sqnr(wanted: Any, found: Any) -> float:
    wanted, found = np.asarray(wanted, np.float64), np.asarray(found, np.float64)
    return Error(float(np.square(found - wanted).sum()), float(np.square(wanted).sum())).sqnr_db


def _onnxruntime(file: Path, feeds: Feeds) -> Any:
    return run(session(file, settings=find("portable").session), feeds)[0]


@pytest.mark.whole
@pytest.mark.parametrize("preset", ["w4", "bct-plus"])
def test_the_reference_evaluator(preset: str, compressed: Callable[..., Compressed]) -> None:
    file = compressed(preset, "portable").file
    feeds = _feeds(file, 2, 12)
    assert not onnx.load(file).functions
    found, *_ = ReferenceEvaluator(onnx.load(file)).run(None, feeds)
    assert _sqnr(_onnxruntime(file, feeds), found) >= LEAST


@pytest.mark.openvino
@pytest.mark.whole
@pytest.mark.parametrize("preset", PRESETS)
def test_openvino(preset: str, compressed: Callable[..., Compressed]) -> None:
    openvino = pytest.importorskip("openvino")
    file = compressed(preset, "portable").file
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [name.get_any_name() for name in compiled.inputs]
    pairs = []
    for batch, tokens in ((1, 16), (4, 24), (8, 64)):
        feeds = _feeds(file, batch, tokens)
        found = compiled({name: feeds[name] for name in names})[compiled.outputs[0]]
        pairs.append((_onnxruntime(file, feeds).reshape(-1), found.reshape(-1)))
    wanted, found = (np.concatenate(side) for side in zip(*pairs, strict=True))
    assert _sqnr(wanted, found) >= LEAST
