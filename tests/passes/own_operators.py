"""Models of one of ONNX Runtime's own operators, and whether lifting it changes a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from bct_onnx.base import Applied
from bct_onnx.graph import contrib
from bct_onnx.graph.tensors import Array
from bct_onnx.runtime.session import run, session
from passes.lift_contrib import LiftContrib
from passes.normalize import Normalize

B, S, N, H, P = 2, 5, 4, 6, 3
C = N * H
Values = Mapping[str, Array | None]


def floats(*shape: int) -> Array:
    return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape).astype(np.float32)


def ints(*shape: int, high: int = 2) -> Array:
    return np.random.default_rng(sum(shape)).integers(0, high, shape).astype(np.int32)


def model(
    operator: str,
    inputs: Values,
    attributes: Mapping[str, Any] | None = None,
    *,
    outputs: int | tuple[str, ...] = 1,
    constant: tuple[str, ...] = (),
    named: bool = True,
    opset: int = 20,
) -> onnx.ModelProto:
    """One operator; inputs are free in all sizes, those of ``constant`` initializers."""
    domain = "" if operator == "SimplifiedLayerNormalization" else "com.microsoft"
    results = tuple(f"y{index}" for index in range(outputs)) if isinstance(outputs, int) else outputs
    given_ = {name: value for name, value in inputs.items() if value is not None}
    node = helper.make_node(
        operator,
        [name if value is not None else "" for name, value in inputs.items()],
        list(results),
        name="node",
        domain=domain,
        **(attributes or {}),
    )
    declared = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), _dims(name, value, named))
        for name, value in given_.items()
        if name not in constant
    ]
    kinds = {"y1": TensorProto.INT32} if operator == "EmbedLayerNormalization" else {}
    float_kind = helper.np_dtype_to_tensor_dtype(next(v.dtype for v in given_.values() if v.dtype.kind == "f"))
    graph = helper.make_graph(
        [node],
        "g",
        declared,
        [helper.make_tensor_value_info(name, kinds.get(name, float_kind), None) for name in results if name],
        [numpy_helper.from_array(given_[name], name) for name in constant],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def _dims(name: str, value: Array, named: bool) -> list[str | int]:
    """Batch and tokens have names, what a model fixes is a number."""
    names = {B: "batch", S: "tokens", S + P: "all", P: "past"} if named else {}
    fixed = name in ("gamma", "beta", "bias", "cosines", "sines")
    return [
        size if fixed or size == 1 else names.get(size, size if size >= C else f"{name}{i}")
        for i, size in enumerate(value.shape)
    ]


def lifted(proto: onnx.ModelProto, **options: Any) -> tuple[ir.Model, Applied]:
    found = ir.from_proto(proto)
    Normalize()(found)
    applied = LiftContrib(**options)(found)
    assert isinstance(applied, Applied)
    return found, applied


def same(proto: onnx.ModelProto, inputs: Values, db: float = 100.0, **options: Any) -> ir.Model:
    """Both give the same, and nothing of ONNX Runtime's own is left."""
    names = {value.name for value in proto.graph.input}
    feeds = {name: value for name, value in inputs.items() if value is not None and name in names}
    want = run(session(proto.SerializeToString()), feeds)
    found, applied = lifted(proto, **options)
    left = [node.op_type for node in found.graph.all_nodes() if contrib.is_own(node)]
    assert not left, [one.reason for one in applied.declined]
    for a, b in zip(want, run(session(found), feeds), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        noise = np.square(a.astype(np.float64) - b).sum()
        assert noise == 0 or 10 * np.log10(np.square(a.astype(np.float64)).sum() / noise) > db
    return found


X, SKIP, GAMMA, BETA, BIAS = floats(B, S, C), floats(B, S, C) + 1, floats(C) + 1, floats(C), floats(C) * 2

LENGTHS, STARTS = np.array([S, S - 2], np.int32), np.array([1, 0], np.int32)
PADDED = np.array([[1] * S, [0, 1, 2, 0, 0]], np.int32)
HIDDEN = np.array([[1] * S, [0] * S], np.int32)
WITH_PAST = np.array([[1] * (S + P), [0, 1, 1, 0, 1, 1, 0, 0]], np.int32)
