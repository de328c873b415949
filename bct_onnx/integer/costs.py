"""What each form of a function costs in ONNX Runtime on this machine: ``python -m bct_onnx.integer.costs``.

Codes go in and codes come out of every form, so that forms compare: the float operator between DequantizeLinear and
QuantizeLinear, the portable kernel of `ai.bct`, and the runtime's own byte-sized operators that `lower-codes` uses.
One thread, scales as constants, forms interleaved, least of several rounds; time of the thread, so that other work on
the machine matters little.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import rich.box
import rich.console
import rich.table

from bct_onnx.integer import KERNELS, LOWERED, model_functions
from bct_onnx.integer.kernel import Array, Kernel

ROUNDS = 15
ROWS, HIDDEN, FFN, HEADS, SIZE = 128, 384, 1536, 12, 32  # of MiniLM, 8 sequences of 128 tokens

UNARY = "x_scale, x_zero, y_scale, y_zero"
HEAD_SCALES = "q, q_scale, x_zero, k, q_scale, x_zero, v, q_scale, x_zero"
NORM = "x_scale, gamma, beta, epsilon, y_scale, y_zero"


def forms() -> Iterator[tuple[str, str, tuple[str, ...], dict[str, str]]]:
    """Function, shape of its codes, names of the inputs, and the body of each form."""
    rows, ffn = f"8,{ROWS},{HIDDEN}", f"8,{ROWS},{FFN}"
    heads, scores = f"8,{HEADS},{ROWS},{SIZE}", f"8,{HEADS},{ROWS},{ROWS}"
    # ONNX Runtime's own QuantizeLinear is the standard one's kernel, for which 1.23 has none at this opset.
    x, y = "f = DequantizeLinear (x, x_scale, x_zero)", "y = com.microsoft.QuantizeLinear (g, y_scale, y_zero)"
    gate = "t = com.microsoft.QLinearSigmoid (x, steep, x_zero, half, none)"
    times = "y = com.microsoft.QLinearMul (x, x_scale, x_zero, t, half, none, y_scale, y_zero)"
    yield "GELU", ffn, ("x",), {
        "float": f"{x} g = Gelu (f) {y}",
        "ai.bct": f"y = ai.bct.IntegerGelu (x, {UNARY})",
        "table": "y = ai.bct.Lookup (x, table)",
        "lowered": f"{gate} {times}",
    }  # fmt: skip
    yield "SiLU", ffn, ("x",), {
        "float": f"{x} s = Sigmoid (f) g = Mul (f, s) {y}",
        "ai.bct": f"y = ai.bct.IntegerSilu (x, {UNARY})",
        "table": "y = ai.bct.Lookup (x, table)",
        "lowered": f"{gate} {times}",
    }  # fmt: skip
    yield "tanh", rows, ("x",), {
        "float": f"{x} g = Tanh (f) {y}",
        "ai.bct": f"y = ai.bct.IntegerTanh (x, {UNARY})",
        "table": "y = ai.bct.Lookup (x, table)",
        "lowered": "y = com.microsoft.QLinearSigmoid (x, steep, x_zero, half, none)",
    }  # fmt: skip
    yield "softmax", scores, ("x",), {
        "float": f"{x} g = Softmax <axis = -1> (f) {y}",
        "ai.bct": f"y = ai.bct.IntegerSoftmax (x, {UNARY})",
        "lowered": f"y = com.microsoft.QLinearSoftmax <axis = -1, opset = 13> (x, {UNARY})",
    }  # fmt: skip
    float_heads = " ".join(f"{n}f = DequantizeLinear ({n}, q_scale, x_zero)" for n in "qkv")
    yield "attention", heads, ("q", "k", "v"), {
        "float": f"{float_heads} g = Attention <scale: float = 0.1768> (qf, kf, vf) {y}",
        "ai.bct": f"y = ai.bct.IntegerAttention ({HEAD_SCALES}, qk_scale, y_scale, y_zero)",
        "lowered": f"y = ai.bct.IntegerMaskedAttentionOrtCpu ({HEAD_SCALES}, keep, qk_scale, t_scale, x_zero, y_scale,"
        " y_zero)",
    }  # fmt: skip
    yield "LayerNorm", rows, ("x",), {
        "float": f"{x} g = LayerNormalization (f, gamma, beta) {y}",
        "ai.bct": f"y = ai.bct.IntegerLayerNorm (x, {NORM})",
    }  # fmt: skip
    yield "residual Add", rows, ("x", "z"), {
        "float": f"{x} h = DequantizeLinear (z, x_scale, x_zero) y = Add (f, h)",
        "ai.bct": "y = ai.bct.IntegerAdd (x, x_scale, x_zero, z, y_scale, x_zero, fine)",
    }  # fmt: skip


def constants() -> dict[str, Array]:
    """Initializers that the bodies use, by name."""
    random = np.random.default_rng(0)
    scalars = {"x_scale": 0.04, "q_scale": 0.04, "y_scale": 0.03, "steep": 0.068, "half": 1 / 256, "fine": 1e-4}
    scalars |= {"qk_scale": 0.1768, "t_scale": 0.1, "epsilon": 1e-6}
    zeros = {"x_zero": 120, "y_zero": 100, "none": 0}
    return {
        **{name: np.array(value, np.float32) for name, value in scalars.items()},
        **{name: np.array(value, np.uint8) for name, value in zeros.items()},
        "gamma": random.uniform(0.5, 1.5, HIDDEN).astype(np.float32),
        "beta": random.normal(size=HIDDEN).astype(np.float32),
        "table": random.integers(0, 256, 256, np.uint8),
        "keep": np.ones((8, 1, 1, ROWS), np.uint8),
    }


def session(body: str, names: tuple[str, ...], shape: str) -> onnxruntime.InferenceSession:
    """A model of one form, with the kernels it calls."""
    graph = onnx.parser.parse_graph(f"g ({', '.join(f'uint8[{shape}] {n}' for n in names)}) => (y) {{ {body} }}")
    graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in constants().items() if n in body)
    kernels: dict[str, Kernel] = {**KERNELS, **LOWERED}
    called = [kernels[node.op_type] for node in graph.node if node.domain == "ai.bct"]
    bodies = itertools.chain.from_iterable(map(model_functions, called))
    functions = list(map(ir.serde.serialize_function, bodies))
    opsets = list(itertools.starmap(onnx.helper.make_opsetid, (("", 23), ("ai.bct", 1), ("com.microsoft", 1))))
    graph.output[0].ClearField("type")
    model = onnx.helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def measure(rounds: int = ROUNDS) -> Iterator[tuple[str, dict[str, float]]]:
    """Nanoseconds per code that goes in (per score for softmax), of every form of every function."""
    for function, shape, names, bodies in forms():
        sizes = list(map(int, shape.split(",")))
        feeds = {n: np.random.default_rng(i).integers(60, 196, sizes, np.uint8) for i, n in enumerate(names)}
        sessions = {form: session(body, names, shape) for form, body in bodies.items()}
        best = dict.fromkeys(sessions, np.inf)
        for _ in range(rounds):
            for form, runner in sessions.items():
                start = time.thread_time()
                runner.run(None, feeds)
                best[form] = min(best[form], time.thread_time() - start)
        yield function, {form: 1e9 * seconds / float(np.prod(sizes)) for form, seconds in best.items()}


def main() -> None:
    """Print the table."""
    table = rich.table.Table("ns per element", "float between Q/DQ", "ai.bct", "table", "lowered", box=rich.box.SIMPLE)
    for function, costs in measure():
        table.add_row(
            function,
            *(f"{costs[form]:.2f}" if form in costs else "" for form in ("float", "ai.bct", "table", "lowered")),
        )
    rich.console.Console().print(table)


if __name__ == "__main__":
    main()
