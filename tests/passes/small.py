"""Small models for the tests of single passes: ONNX text and seeded arrays, run at both ends of optimization."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnx_ir as ir

from bct_onnx.base import Applied, Pass
from bct_onnx.graph import shapes
from bct_onnx.graph.tensors import Array
from bct_onnx.runtime.session import Optimize, loadable, run, runnable, session
from tests.graph import handmade

LEVELS: tuple[Optimize, ...] = ("disabled", "all")
EVERY: tuple[Optimize, ...] = get_args(Optimize)
HEAD = '<ir_version: 10, opset_import: ["" : 23]>'


def model(text: str, **arrays: np.ndarray[Any, Any]) -> ir.Model:
    """The graph ``text`` (without its header) with initializers, shapes inferred."""
    made = ir.from_proto(handmade.model(f"{HEAD} {text}", **arrays))
    shapes.infer(made)
    return made


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    """Seeded normal float32 values."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def apply(one: Pass, target: ir.Model) -> Applied:
    """Run a pass, and check that what it leaves is valid ONNX."""
    applied = one(target)
    assert isinstance(applied, Applied)
    check(target)
    return applied


def check(target: ir.Model) -> None:
    """It is valid ONNX."""
    onnx.checker.check_model(ir.to_proto(target), full_check=True)


def outputs(target: ir.Model, **feeds: np.ndarray[Any, Any]) -> dict[str, list[Array]]:
    """The outputs at each level of optimization."""
    return _at(LEVELS, target, feeds)


def _at(levels: Iterable[Optimize], target: ir.Model, feeds: Mapping[str, Array]) -> dict[str, list[Array]]:
    """The outputs by level; the model is written once."""
    serialized = loadable(target)
    return {level: run(session(serialized, optimize=level), feeds) for level in levels}


def everywhere(target: ir.Model, **feeds: Array) -> list[Array]:
    """The outputs, which are equal at every level of optimization."""
    found = _at(EVERY, target, feeds)
    for level in EVERY:
        for got, want in zip(found[level], found["disabled"], strict=True):
            np.testing.assert_array_equal(got, want, err_msg=level)
    return found["disabled"]


def ops(target: ir.Model) -> dict[str, int]:
    """How often each operator stands in the model."""
    names = [node.op_type for node in target.graph.all_nodes()]
    return {name: names.count(name) for name in names}


def optimized(target: ir.Model, folder: Path) -> onnx.ModelProto:
    """What ONNX Runtime makes of the model when it loads it."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(ir.to_proto(runnable(target)).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimized.onnx")


def close(got: Array, want: Array, relative: float) -> None:
    """Equal up to ``relative`` of the largest magnitude."""
    assert got.shape == want.shape and got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=0, atol=relative * float(np.abs(want).max()))


MATMUL = "g (float[n,{k}] x) => (float[n,{n}] y) {{ y = MatMul (x, w) }}"


def matmul(k: int, n: int, seed: int = 0) -> ir.Model:
    return model(MATMUL.format(k=k, n=n), w=normal(k, n, seed=seed))


V, D = 300, 64
"""Large enough for `normalize` to look for a transposed copy."""

TIED = {
    "transpose": (
        """g (int64[n] ids) => (float[n,300] y) {
            e = Gather (table, ids)  w = Transpose <perm = [1, 0]> (table)  y = MatMul (e, w) }""",
        {"table": normal(V, D)},
    ),
    "duplicate": (
        "g (int64[n] ids) => (float[n,300] y) { e = Gather (table, ids)  y = MatMul (e, w) }",
        {"table": normal(V, D), "w": np.ascontiguousarray(normal(V, D).T)},
    ),
    "gemm": (
        "g (int64[n] ids) => (float[n,300] y) { e = Gather (table, ids)  y = Gemm <transB = 1> (e, table) }",
        {"table": normal(V, D)},
    ),
}


def lookup(ids_type: str = "int64", shape: str = "n,s", **arrays: Any) -> ir.Model:
    return model(
        f"g ({ids_type}[{shape}] ids) => (float[{shape},64] y) {{ y = Gather (table, ids) }}",
        **(arrays or {"table": normal(V, D)}),
    )
