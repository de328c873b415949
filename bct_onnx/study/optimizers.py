"""Other tools that make a model faster and leave its size; those that compress are in `bct_onnx.study.peers`."""

from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime as ort

from bct_onnx.graph.atomic import TemporaryFolder
from bct_onnx.runtime.session import CPU, IN_MEMORY_LIMIT
from bct_onnx.study.peers import Feeds, Tool

_LEVELS = {
    1: (ort.GraphOptimizationLevel.ORT_ENABLE_BASIC, ()),
    2: (
        ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        (
            "MatMulScaleFusion",
            "MatMulAddFusion",
            "MatmulTransposeFusion",
            "GemmActivationFusion",
            "BiasSoftmaxFusion",
        ),
    ),
}
"""Levels of the optimizer: how far the runtime rewrites the graph first, and what it leaves to the fusions after it."""


def _optimized(model: onnx.ModelProto, path: Path, samples: Sequence[Feeds], *, model_type: str, level: int) -> None:
    """ONNX Runtime's optimizer of transformers; it finds the heads itself.

    Its ``optimize_model`` imports torch for the runtime's part, although only GPUs need that; so that part, a session
    that writes its graph down, is done here with the same settings.
    """
    optimizer = importlib.import_module("onnxruntime.transformers.optimizer")
    large = model.ByteSize() > IN_MEMORY_LIMIT
    with TemporaryFolder(path.parent, "optimizer") as folder:
        onnx.save(model, folder / "source.onnx", save_as_external_data=large)
        _at_level(folder / "source.onnx", folder / "graph.onnx", level, large=large)
        optimized = optimizer.optimize_by_fusion(onnx.load(folder / "graph.onnx"), model_type)
    optimized.save_model_to_file(str(path), large)


def _at_level(source: Path, result: Path, level: int, *, large: bool) -> None:
    """Write what the runtime makes of a graph."""
    optimization, left_out = _LEVELS[level]
    options = ort.SessionOptions()
    options.graph_optimization_level = optimization
    options.optimized_model_filepath = str(result)
    options.log_severity_level = 4
    if large:
        entry = "session.optimized_model_external_initializers_file_name"
        options.add_session_config_entry(entry, f"{result.name}.data")
    ort.InferenceSession(str(source), options, providers=[CPU], disabled_optimizers=["ConstantSharing", *left_out])


OPTIMIZERS = {
    "ort-optimizer": Tool(
        "ort-optimizer",
        {
            f"{model_type}, level {level}": functools.partial(_optimized, model_type=model_type, level=level)
            for model_type, level in itertools.product(("bert", "gpt2"), (1, 2))
        },
        ("Attention", "MultiHeadAttention", "SkipLayerNormalization", "BiasGelu", "FastGelu", "LayerNormalization"),
        "fastest",
    )
}
