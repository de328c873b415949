"""What a result says of itself in its metadata: how it was made, of what, with what, and for which target."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from bct_onnx import __version__, digest
from bct_onnx.graph.inventory import PARAMETERS
from bct_onnx.pipeline import Pipeline

PIPELINE, VERSION, SOURCE, DATA = "bct_onnx.pipeline", "bct_onnx.version", "bct_onnx.source", "bct_onnx.data"
TARGET, INT8 = "bct_onnx.target", "bct_onnx.int8"


def write(model: ir.Model, passes: Pipeline, parameters: int, source: str, target: str, products: str) -> None:
    """Stamp a model.

    Args:
        model: The result.
        passes: What made it.
        parameters: Parameters of the input, each counted once.
        source: Hash of the input's files; empty for a model in memory.
        target: Name of the target.
        products: What its integer products assume of CPUs, in words; empty where it has none.
    """
    stamps = {
        PIPELINE: ",".join(each.stamp_text() for each in passes),
        VERSION: __version__,
        PARAMETERS: str(parameters),
    }
    if source:
        stamps[SOURCE] = source
    read: dict[Path, None] = {}
    for each in passes:
        read |= dict.fromkeys(each.reads().values())
    if read:
        stamps[DATA] = ", ".join(f"{file.name} {digest.of_files((file,))}" for file in read)
    stamps[TARGET] = target
    if products:
        stamps[INT8] = products
    model.metadata_props.update(stamps)
