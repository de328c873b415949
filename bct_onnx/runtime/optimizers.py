"""Other tools that make a model faster and leave its size; those that compress are in `bct_onnx.runtime.others`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import onnx

from bct_onnx.runtime.others import Feeds, Tool, Write
from bct_onnx.runtime.session import IN_MEMORY_LIMIT


def _optimized(model_type: str, level: int) -> Write:
    """ONNX Runtime's optimizer of transformers, which works without torch when called so; it finds the heads itself."""

    def write(model: onnx.ModelProto, path: Path, samples: Sequence[Feeds]) -> None:
        optimizer = importlib.import_module("onnxruntime.transformers.optimizer")
        made = optimizer.optimize_model(model, model_type=model_type, opt_level=level)
        made.save_model_to_file(str(path), model.ByteSize() > IN_MEMORY_LIMIT)

    return write


OPTIMIZERS = {
    "ort-optimizer": Tool(
        "ort-optimizer",
        {
            f"{model_type}, level {level}": _optimized(model_type, level)
            for model_type in ("bert", "gpt2")
            for level in (1, 2)
        },
        ("Attention", "MultiHeadAttention", "SkipLayerNormalization", "BiasGelu", "FastGelu", "LayerNormalization"),
        "fastest",
    )
}
