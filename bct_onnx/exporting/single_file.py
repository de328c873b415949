"""Make one clean file of what an exporter wrote, and move it to its place whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnx.external_data_helper import load_external_data_for_model

from bct_onnx.errors import OutputError

ONE_FILE_LIMIT = 1_900_000_000
"""Bytes of weights above which they go to a file of their own; protobuf ends at 2**31."""

Named = tuple[str, tuple[int | str, ...]]


def data_file(model: Path) -> Path:
    """Where the weights of a model above 2 GB go: ``model.onnx.data`` beside ``model.onnx``."""
    return model.with_name(model.name + ".data")


def tidy(draft: Path) -> tuple[int, tuple[Named, ...], tuple[Named, ...]]:
    """Rewrite ``draft``: weights inside where they fit, and no paths of the exporting machine in it.

    Returns:
        The opset, and names and shapes of inputs and outputs.
    """
    model = onnx.load(draft, load_external_data=False)
    load_external_data_for_model(model, str(draft.parent))
    _forget_source_lines(model)
    for leftover in draft.parent.iterdir():
        if leftover.is_file():
            leftover.unlink()
    big = sum(tensor.ByteSize() for tensor in model.graph.initializer) > ONE_FILE_LIMIT
    try:
        onnx.save_model(model, draft, save_as_external_data=big, location=data_file(draft).name if big else None)
    except OSError as error:
        raise OutputError("cannot write the model", where=str(draft), why=str(error)) from error
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return opset, _named(model.graph.input), _named(model.graph.output)


def move(draft: Path, output: Path) -> tuple[Path, ...]:
    """Rename the finished files to their place, the model last: where it is, its data is."""
    data, target = data_file(draft), data_file(output)
    try:
        if data.exists():
            data.replace(target)
        draft.replace(output)
        if target.exists() and not _uses_external_data(output):
            target.unlink()  # of the model that was replaced
    except OSError as error:
        raise OutputError("cannot write the model", where=str(output), why=str(error)) from error
    return (output, target) if target.exists() else (output,)


def _uses_external_data(model: Path) -> bool:
    graph = onnx.load(model, load_external_data=False).graph
    return any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer)


def _forget_source_lines(model: onnx.ModelProto) -> None:
    """Drop stack traces: they hold file paths of this machine and differ from one machine to the next."""
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        for node in graph.node:
            node.ClearField("doc_string")
            kept = [entry for entry in node.metadata_props if "stack_trace" not in entry.key]
            del node.metadata_props[:]
            node.metadata_props.extend(kept)


def _named(values: Any) -> tuple[Named, ...]:
    return tuple(
        (value.name, tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim))
        for value in values
    )
