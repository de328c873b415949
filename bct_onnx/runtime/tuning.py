"""Measure what the kernels of `bct_onnx.runtime.kernel_costs` cost on this machine.

Chains of products D -> 4 D -> D -> ... that hold more weights than caches do, one per kernel, run in turn; the minimum
over all rounds counts, since other programs only ever add to it. On one thread it is the thread's own processor time.
Two widths D tell the cost of a call from that of a weight.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from bct_onnx.runtime.kernel_costs import KERNELS, Costs, Kernel
from bct_onnx.runtime.session import run, session

ROWS = (1, 4, 16, 64)
WIDTHS = (256, 768)
WEIGHTS = 1 << 25
"""Of a chain of the larger width: 32 MB as int8."""

BLOCK = 32

Progress = Callable[[str, int, int], None]


def tune(
    name: str,
    about: str,
    *,
    widths: Sequence[int] = WIDTHS,
    weights: int = WEIGHTS,
    rounds: int = 60,
    threads: int = 1,
    progress: Progress = lambda label, done, total: None,
) -> Costs:
    """A table of this machine's costs.

    Args:
        name: What to call it.
        about: What to write into it about the machine.
        widths: Two D, the smaller first; multiples of 32.
        weights: How many a chain of the larger D holds; the others have as many products.
        rounds: Timed runs per chain and number of rows; a sixth as many, and at least 2, from 16 rows on.
        threads: Threads within an operator.
        progress: Told what is being measured.
    """
    small, large = widths
    layers = max(2, weights // (4 * large * large))
    measured: dict[tuple[str, int, int], float] = {}
    for number, width in enumerate((small, large)):
        chains = {form: session(_chain(form, width, layers), threads=threads) for form in _FORMS}
        for place, rows in enumerate(ROWS):
            progress(f"width {width}, {rows} rows", number * len(ROWS) + place, 2 * len(ROWS))
            clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns
            times = _times(chains, rows, width, rounds if rows < 16 else max(2, rounds // 6), clock)
            measured |= {(form, width, rows): ns / layers for form, ns in times.items()}
    progress("done", 1, 1)
    branch = max(0.0, measured["either", small, 1] - measured["nbits4", small, 1])
    return Costs(name, about, branch, {kernel: _fitted(kernel, small, large, measured) for kernel in KERNELS})


def _fitted(kernel: str, small: int, large: int, measured: dict[tuple[str, int, int], float]) -> Kernel:
    """A straight line through both widths at one row; then the rates for which the larger width comes out right."""
    few, many = 4 * small * small, 4 * large * large
    at_few, at_many = measured[kernel, small, 1], measured[kernel, large, 1]
    call = min(max(0.0, at_few - (at_many - at_few) / (many - few) * few), at_few)
    rates = (max(measured[kernel, large, rows] - call, 1.0) / many for rows in ROWS)
    return Kernel(call, tuple(zip(ROWS, itertools.accumulate(rates, max), strict=True)))


def _times(
    chains: dict[str, ort.InferenceSession], rows: int, width: int, rounds: int, clock: Callable[[], int]
) -> dict[str, float]:
    """Least nanoseconds of processor time of one run of each chain."""
    feeds = {"x": np.random.default_rng(rows).standard_normal((1, rows, width)).astype(np.float32)}
    best = dict.fromkeys(chains, float("inf"))
    for _ in range(rounds + 1):
        for form, chain in chains.items():
            start = clock()
            run(chain, feeds)
            best[form] = min(best[form], clock() - start)
    return best


def _chain(form: str, width: int, layers: int) -> bytes:
    rng = np.random.default_rng(0)
    sizes = [width if layer % 2 == 0 else 4 * width for layer in range(layers + 1)]
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = [
        numpy_helper.from_array(np.array(0.03, np.float32), "x_scale"),
        numpy_helper.from_array(np.array(128, np.uint8), "middle"),
        numpy_helper.from_array(np.array([1, 0, 0, 0, 0, 0], np.int64), "pads"),
        numpy_helper.from_array(np.array([1], np.int64), "one"),
        numpy_helper.from_array(np.array([0], np.int64), "none"),
        numpy_helper.from_array(np.array([-1], np.int64), "last"),
        numpy_helper.from_array(np.array(127, np.float32), "levels"),
        numpy_helper.from_array(np.array(True), "true"),
    ]
    nodes.append(helper.make_node("Expand", ["true", "one"], ["decoding"]))
    for layer, (k, n) in enumerate(itertools.pairwise(sizes)):
        products, constants = _FORMS[form](f"h{layer}", f"h{layer + 1}", k, n, rng)
        nodes += products
        weights += constants
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, "rows", width])]
    outputs = [helper.make_tensor_value_info(f"h{layers}", onnx.TensorProto.FLOAT, [1, "rows", sizes[-1]])]
    nodes.insert(0, helper.make_node("Identity", ["x"], ["h0"]))
    graph = helper.make_graph(nodes, form, inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    serialized: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return serialized


_Layer = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


def _float(x: str, y: str, k: int, n: int, rng: np.random.Generator) -> _Layer:
    weight = rng.standard_normal((k, n), np.float32) / np.float32(np.sqrt(k))
    nodes = [helper.make_node("MatMul", [x, f"{y}.w"], [f"{y}.p"]), helper.make_node("Add", [f"{y}.p", f"{y}.b"], [y])]
    return nodes, [numpy_helper.from_array(weight, f"{y}.w"), _bias(y, n)]


def _int8(x: str, y: str, k: int, n: int, rng: np.random.Generator) -> _Layer:
    weight = rng.integers(-64, 65, (k, n), np.int8)
    inputs = [f"{y}.c", f"{y}.w", "x_scale", f"{y}.s", "middle", "", f"{y}.b"]
    nodes = [
        helper.make_node("QuantizeLinear", [x, "x_scale", "middle"], [f"{y}.c"]),
        helper.make_node("MatMulIntegerToFloat", inputs, [y], domain="com.microsoft"),
    ]
    scale = np.full(n, 1 / 37 / np.sqrt(k), np.float32)
    return nodes, [numpy_helper.from_array(weight, f"{y}.w"), numpy_helper.from_array(scale, f"{y}.s"), _bias(y, n)]


def _int8_token(x: str, y: str, k: int, n: int, rng: np.random.Generator) -> _Layer:
    """As `quantize-activations` and `lower-weights` write it."""
    weight = rng.integers(-64, 65, (k, n), np.int8)
    scale = np.full(n, 1 / 37 / np.sqrt(k), np.float32)
    steps = [
        ("ReduceMax", [x, "last"], "top"),
        ("ReduceMin", [x, "last"], "bottom"),
        ("Div", [f"{y}.top", "levels"], "above"),
        ("Div", [f"{y}.bottom", "levels"], "below"),
        ("Max", [f"{y}.above", f"{y}.below", "x_scale"], "t"),
        ("Shape", [f"{y}.t"], "shape"),
        ("Expand", ["middle", f"{y}.shape"], "zeros"),
    ]
    nodes = [helper.make_node(op, inputs, [f"{y}.{output}"]) for op, inputs, output in steps]
    inputs = [f"{y}.c", f"{y}.w", "x_scale", f"{y}.s", "middle"]
    nodes += [
        helper.make_node("QuantizeLinear", [x, f"{y}.t", f"{y}.zeros"], [f"{y}.c"], axis=-1, block_size=k),
        helper.make_node("MatMulIntegerToFloat", inputs, [f"{y}.p"], domain="com.microsoft"),
        helper.make_node("Mul", [f"{y}.p", f"{y}.t"], [f"{y}.m"]),
        helper.make_node("Add", [f"{y}.m", f"{y}.b"], [y]),
    ]
    return nodes, [numpy_helper.from_array(weight, f"{y}.w"), numpy_helper.from_array(scale, f"{y}.s"), _bias(y, n)]


def _nbits4(x: str, y: str, k: int, n: int, rng: np.random.Generator) -> _Layer:
    codes = rng.integers(0, 256, (n, k // BLOCK, BLOCK // 2), np.uint8)
    scales = np.full((n, k // BLOCK), 1 / 4 / np.sqrt(k), np.float32)
    options: dict[str, Any] = {"K": k, "N": n, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
    inputs = [x, f"{y}.q", f"{y}.s", "", "", f"{y}.b"]
    nodes = [helper.make_node("MatMulNBits", inputs, [y], domain="com.microsoft", **options)]
    return nodes, [numpy_helper.from_array(codes, f"{y}.q"), numpy_helper.from_array(scales, f"{y}.s"), _bias(y, n)]


def _either(x: str, y: str, k: int, n: int, rng: np.random.Generator) -> _Layer:
    """As `lower-decoding` writes it, with nothing in the branch that is not taken."""
    (product,), constants = _nbits4(f"{y}.two", f"{y}.both", k, n, rng)
    inner = [
        helper.make_node("Pad", [x, "pads"], [f"{y}.two"]),
        product,
        helper.make_node("Slice", [f"{y}.both", "none", "one", "none"], [f"{y}.first"]),
    ]
    kind = onnx.TensorProto.FLOAT
    branches = {
        "then_branch": helper.make_graph(inner, "one", [], [helper.make_tensor_value_info(f"{y}.first", kind, None)]),
        "else_branch": helper.make_graph(
            [helper.make_node("Expand", [f"{y}.both.b", "one"], [f"{y}.none"])],
            "many",
            [],
            [helper.make_tensor_value_info(f"{y}.none", kind, None)],
        ),
    }
    return [helper.make_node("If", ["decoding"], [y], **branches)], constants


def _bias(y: str, n: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.zeros(n, np.float32), f"{y}.b")


_FORMS: dict[str, Callable[[str, str, int, int, np.random.Generator], _Layer]] = {
    "float": _float,
    "int8": _int8,
    "int8-token": _int8_token,
    "nbits4": _nbits4,
    "either": _either,
}


def rows_of(costs: Costs) -> Iterator[tuple[str, tuple[float, ...]]]:
    """For each kernel, microseconds of a product with 768 x 3072 weights at each of `ROWS`, for a table to read."""
    for name, kernel in costs.kernels.items():
        yield name, tuple(kernel.ns(rows, 768, 3072) / 1e3 for rows in ROWS)
