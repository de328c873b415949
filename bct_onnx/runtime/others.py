"""What other tools make of the same model, each in its best form, so that a comparison with them is a fair one.

Best form: the graph's stale shape annotations are removed before (they make `quantize_dynamic` fail or its result
slow), and of a tool's usual settings the one is kept that does best in its own discipline, speed or size.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from bct_onnx.errors import TargetError
from bct_onnx.runtime.latency import measure
from bct_onnx.runtime.session import IN_MEMORY_LIMIT, session

Write = Callable[[onnx.ModelProto, Path], None]


@dataclass(frozen=True)
class Tool:
    """A tool with the settings worth trying, what its result must contain, and what it is best at."""

    name: str
    settings: Mapping[str, Write]
    leaves: tuple[str, ...]
    best: Literal["fastest", "smallest"]


@dataclass(frozen=True)
class Made:
    """A tool's result: the file and the settings that made it, or why there is none."""

    tool: str
    setting: str = ""
    path: Path | None = None
    error: str = ""


def make(tool: Tool, model: Path, folder: Path, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Made:
    """Run a tool with each of its settings and keep the best result that loads and runs on `feeds`.

    Args:
        tool: One of `TOOLS`.
        model: The float model.
        folder: Where the files may be written; those not chosen are left there too.
        feeds: One valid sample.
    """
    results: dict[str, Path] = {}
    errors: dict[str, None] = {}
    for number, (setting, write) in enumerate(tool.settings.items()):
        path = folder / f"{tool.name}-{number}" / "model.onnx"
        path.parent.mkdir(parents=True)
        try:
            with _quiet():
                write(_without_annotations(model), path)
            _check(tool, path, feeds)
            results[setting] = path
        except Exception as error:  # a foreign tool may raise anything; its failure is a result of the comparison
            errors[_first_line(error).replace(str(path), "its result")] = None
    if not results:
        return Made(tool.name, error="; ".join(errors))
    if tool.best == "smallest":
        setting = min(results, key=lambda s: sum(f.stat().st_size for f in results[s].parent.iterdir()))
    else:
        times = measure({s: session(path) for s, path in results.items()}, feeds, rounds=3, warmup=1)
        setting = min(times, key=lambda s: times[s].min_ms)
    return Made(tool.name, setting, results[setting])


def _dynamic(**options: Any) -> Write:
    def write(model: onnx.ModelProto, path: Path) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        large = model.ByteSize() > IN_MEMORY_LIMIT
        standard = any(node.op_type == "Attention" and not node.domain for node in model.graph.node)
        if standard:  # mistaken for the operator of the same name in com.microsoft
            options["op_types_to_quantize"] = ["MatMul", "Gather", "Conv"]
        quantize_dynamic(model, path, weight_type=QuantType.QInt8, use_external_data_format=large, **options)

    return write


def _nbits(*op_types: str) -> Write:
    def write(model: onnx.ModelProto, path: Path) -> None:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(
            model, bits=4, block_size=32, is_symmetric=True, accuracy_level=4, op_types_to_quantize=op_types
        )
        quantizer.process()
        quantizer.model.save_model_to_file(str(path), model.ByteSize() > IN_MEMORY_LIMIT)

    return write


TOOLS = {
    tool.name: tool
    for tool in (
        Tool(
            "ort-dynamic",
            {
                "int8 per channel": _dynamic(per_channel=True),
                "int8 per channel, reduced range": _dynamic(per_channel=True, reduce_range=True),
                "int8 per tensor": _dynamic(),
            },
            ("MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM"),
            "fastest",
        ),
        Tool(
            "ort-nbits4",
            {"4 bit block 32, embeddings too": _nbits("MatMul", "Gather"), "4 bit block 32": _nbits("MatMul")},
            ("MatMulNBits",),
            "smallest",
        ),
    )
}


def _without_annotations(model: Path) -> onnx.ModelProto:
    proto = onnx.load(model)
    del proto.graph.value_info[:]
    return proto


def _check(tool: Tool, path: Path, feeds: Mapping[str, np.ndarray[Any, Any]]) -> None:
    from bct_onnx.runtime.session import run

    made = onnx.load(path, load_external_data=False)
    if not any(node.op_type in tool.leaves for node in made.graph.node):
        raise TargetError("it quantized nothing")
    run(session(path), feeds)


def _first_line(error: Exception) -> str:
    text = getattr(error, "why", "") or str(error) or type(error).__name__
    return text.strip().splitlines()[0][:200]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """These tools log through the root logger, at length, and let numpy warn about columns of zeros."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        logging.disable(before)
