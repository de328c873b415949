"""What other tools make of the same model, each in its best form, so that a comparison with them is a fair one.

Best form: the graph's stale shape annotations are removed before (they make `quantize_dynamic` fail or its result
slow), embeddings are stored in few bits too where a runtime has an operator for that, weights that a tool leaves behind
are dropped, and of a tool's usual settings the one is kept that does best: the fastest where speed is what the tool is
for, else the first that works, as they are listed from the smallest result on.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx.version_converter

from bct_onnx.errors import TargetError
from bct_onnx.graph.names import by_name, names_of
from bct_onnx.runtime.latency import measure
from bct_onnx.runtime.session import IN_MEMORY_LIMIT, run, session

Feeds = Mapping[str, np.ndarray[Any, Any]]
Write = Callable[[onnx.ModelProto, Path, Sequence[Feeds]], None]
"""Compress a model, which may be changed, into a file; the samples are for tools that calibrate."""


@dataclass(frozen=True)
class Tool:
    """A tool with the settings worth trying, what its result must contain, and which of the settings is the best."""

    name: str
    settings: Mapping[str, Write]
    leaves: tuple[str, ...]
    best: Literal["fastest", "first"]


@dataclass(frozen=True)
class Built:
    """A model that a tool or this program has made, on disk, or why there is none.

    Attributes:
        file: The model; None if it failed.
        text: The setting of a tool, or the pipeline with all its options.
        seconds: Wall time, reading and writing files included.
        planning: Wall time of measuring tensors and allotting bits, which is part of it.
        slowest: The step that took longest, and its seconds; empty where there are no steps.
        peak: Largest memory of the process in bytes, Python and its libraries included; None where it cannot be told.
        error: The first line of what went wrong.
    """

    file: Path | None = None
    text: str = ""
    seconds: float = 0.0
    planning: float = 0.0
    slowest: tuple[str, float] = ("", 0.0)
    peak: int | None = None
    error: str = ""


def make(tool: Tool, model: Path, folder: Path, feeds: Feeds, samples: Sequence[Feeds] = ()) -> Built:
    """Run a tool with each of its settings and keep the best result that loads and runs on `feeds`.

    Args:
        tool: One of `TOOLS`.
        model: The float model.
        folder: Where the files may be written; those not chosen are left there too.
        feeds: One valid sample.
        samples: What to calibrate on, for tools that do; by default `feeds`.
    """
    results: dict[str, Built] = {}
    errors: dict[str, None] = {}
    for number, (setting, write) in enumerate(tool.settings.items()):
        path = folder / f"{tool.name}-{number}" / "model.onnx"
        path.parent.mkdir(parents=True)
        start = time.perf_counter()
        try:
            with _quiet():
                proto = onnx.load(model)
                del proto.graph.value_info[:]
                write(proto, path, samples or [feeds])
            seconds = time.perf_counter() - start
            _check(tool, path, feeds)
            results[setting] = Built(path, setting, seconds)
        except Exception as error:  # a foreign tool may raise anything; its failure is a result of the comparison
            errors[_first_line(error).replace(str(path), "its result")] = None
        if results and tool.best == "first":
            break
    if not results:
        return Built(error="; ".join(errors))
    return _fastest(results, feeds)


def settings_alone(tool: Tool) -> dict[str, Tool]:
    """A tool for each setting by ``tool: setting``, where speed is not what counts and all are to be seen."""
    return {
        f"{tool.name}: {setting}": Tool(tool.name, {setting: write}, tool.leaves, tool.best)
        for setting, write in tool.settings.items()
    }


def _fastest(results: Mapping[str, Built], feeds: Feeds) -> Built:
    if len(results) == 1:
        return next(iter(results.values()))
    sessions = {setting: session(result.file) for setting, result in results.items() if result.file is not None}
    times = measure(sessions, feeds, rounds=3, warmup=1)
    return results[min(times, key=lambda setting: times[setting].min_ms)]


def _dynamic(model: onnx.ModelProto, path: Path, samples: Sequence[Feeds], **options: Any) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    large = model.ByteSize() > IN_MEMORY_LIMIT
    standard = any(node.op_type == "Attention" and not node.domain for node in model.graph.node)
    if standard:  # mistaken for the operator of the same name in com.microsoft
        options["op_types_to_quantize"] = ["MatMul", "Gather", "Conv"]
    quantize_dynamic(model, path, weight_type=QuantType.QInt8, use_external_data_format=large, **options)


def _nbits(
    model: onnx.ModelProto,
    path: Path,
    samples: Sequence[Feeds],
    *,
    algorithm: str,
    bits: int,
    block: int,
    embeddings: bool,
) -> None:
    """MatMulNBits by one of its algorithms. All but the default one know no embeddings: these get the default's."""
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    _split_gemm(model)  # they know MatMul only
    if embeddings:  # in 4 bits: there is no other GatherBlockQuantized for them
        gathers = nbits.DefaultWeightOnlyQuantConfig(
            bits=4, block_size=block, is_symmetric=True, op_types_to_quantize=("Gather",)
        )
        tables = nbits.MatMulNBitsQuantizer(model, algo_config=gathers)
        tables.process()
        model = tables.model.model
    options = _algorithm(nbits, algorithm, bits, block, samples)
    with contextlib.redirect_stdout(io.StringIO()):  # some report their progress
        quantizer = nbits.MatMulNBitsQuantizer(model, **options)
        quantizer.process()
    quantizer.model.save_model_to_file(str(path), model.ByteSize() > IN_MEMORY_LIMIT)


def _algorithm(nbits: Any, name: str, bits: int, block: int, samples: Sequence[Feeds]) -> dict[str, Any]:
    if name == "hqq":
        return {"algo_config": nbits.HQQWeightOnlyQuantConfig(block_size=block, bits=bits)}
    if name == "default":
        options = {"bits": bits, "block_size": block, "is_symmetric": True, "accuracy_level": 4}
        return {"algo_config": nbits.DefaultWeightOnlyQuantConfig(**options)}  # older ones know no bits but there
    configurations = {
        "rtn": nbits.RTNWeightOnlyQuantConfig,
        "k-quant": nbits.KQuantWeightOnlyQuantConfig,
        "gptq": lambda: nbits.GPTQWeightOnlyQuantConfig(list(map(dict, samples))),
    }
    return {"block_size": block, "accuracy_level": 4, "algo_config": configurations[name]()}


def _matmul_nbits(name: str, algorithm: str, bits: int, block: int = 32) -> Tool:
    text = f"{bits} bit block {block}"
    write = functools.partial(_nbits, algorithm=algorithm, bits=bits, block=block)
    settings = {
        f"{text}, embeddings too": functools.partial(write, embeddings=True),
        text: functools.partial(write, embeddings=False),
    }
    return Tool(name, settings, ("MatMulNBits",), "first")


def _onnxsim(model: onnx.ModelProto, path: Path, samples: Sequence[Feeds], *, solver: str = "") -> None:
    onnxsim = importlib.import_module("onnxsim")
    source = _at_opset_21(model)
    quantized = onnxsim.quantize_weight_only_int4(source)
    if solver:
        quantized = getattr(onnxsim, solver)(source, quantized, list(map(dict, samples)))
    _save(quantized, path)


def _modelopt(model: onnx.ModelProto, path: Path, samples: Sequence[Feeds], *, method: str) -> None:
    int4 = importlib.import_module("modelopt.onnx.quantization.int4")
    feeds = list(map(dict, samples))
    options = {"calibration_method": method, "calibration_data_reader": feeds, "calibration_eps": ["cpu"]}
    _save(int4.quantize(_at_opset_21(model), use_external_data_format=False, block_size=32, **options), path)


TOOLS = by_name(
    (
        Tool(
            "ort-dynamic",
            {
                "int8 per channel": functools.partial(_dynamic, per_channel=True),
                "int8 per channel, reduced range": functools.partial(_dynamic, per_channel=True, reduce_range=True),
                "int8 per tensor": _dynamic,
            },
            ("MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM"),
            "fastest",
        ),
        _matmul_nbits("ort-nbits4", "default", 4),
        _matmul_nbits("ort-nbits4-128", "default", 4, block=128),
        _matmul_nbits("ort-nbits8", "default", 8),
        _matmul_nbits("ort-nbits2", "default", 2),
        _matmul_nbits("ort-rtn4", "rtn", 4),
        _matmul_nbits("ort-hqq4", "hqq", 4),
        _matmul_nbits("ort-hqq2", "hqq", 2),
        _matmul_nbits("ort-k-quant4", "k-quant", 4),
        _matmul_nbits("ort-gptq4", "gptq", 4),
        Tool(
            "onnxsim-int4",
            {"4 bit block 32, GPTQ": functools.partial(_onnxsim, solver="apply_gptq"), "4 bit block 32": _onnxsim},
            ("DequantizeLinear",),
            "first",
        ),
        Tool(
            "modelopt-int4",
            {
                "4 bit block 32, AWQ": functools.partial(_modelopt, method="awq_lite"),
                "4 bit block 32": functools.partial(_modelopt, method="rtn_dq"),
            },
            ("DequantizeLinear",),
            "first",
        ),
    )
)


def _split_gemm(model: onnx.ModelProto) -> None:
    """Make every plain Gemm with a constant weight a MatMul and an Add."""
    weights = by_name(model.graph.initializer)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        options = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        scaled = options.get("alpha", 1.0) != 1.0 or options.get("beta", 1.0) != 1.0 or options.get("transA", 0)
        if node.op_type != "Gemm" or scaled or node.input[1] not in weights:
            nodes.append(node)
            continue
        left, right, *bias = node.input
        if options.get("transB", 0):
            array = onnx.numpy_helper.to_array(weights[right])
            right = f"{right}_transposed_for_{node.output[0]}"
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array.T), right))
        product = f"{node.output[0]}_product" if bias else node.output[0]
        nodes.append(onnx.helper.make_node("MatMul", [left, right], [product], name=f"{node.output[0]}_MatMul"))
        if bias:
            nodes.append(onnx.helper.make_node("Add", [product, *bias], [node.output[0]], name=f"{node.output[0]}_Add"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _at_opset_21(model: onnx.ModelProto) -> onnx.ModelProto:
    """Blocks of int4 need it."""
    version = next(imported.version for imported in model.opset_import if imported.domain in ("", "ai.onnx"))
    if version >= 21:
        return model
    return onnx.version_converter.convert_version(model, 21)


def _save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model without the weights that nothing uses."""
    used = set(names_of(model.graph.output))
    for node in model.graph.node:
        used.update(node.input)
    kept = [one for one in model.graph.initializer if one.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, path)


def _check(tool: Tool, path: Path, feeds: Feeds) -> None:
    written = onnx.load(path, load_external_data=False)
    if not any(node.op_type in tool.leaves for node in written.graph.node):
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
