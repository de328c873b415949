"""Which int8 kernel this process really gets: measured, since the CPU's flags do not tell.

ONNX Runtime 1.32 leaves AMX off in a process that is bound to one CPU when it is imported, and virtual machines hide
or emulate instructions. Both products take a blink, so that `bench` and `rewrite` can say what they ran with.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from bct_onnx.runtime.latency import measure
from bct_onnx.runtime.session import session

ROWS, SIZE = 128, 768
_ROUNDS = 5


@dataclass(frozen=True)
class Int8Speed:
    """Billions of operations per second of one thread, a multiplication and an addition counting as two."""

    int8: float
    fp32: float

    @property
    def said(self) -> str:
        """One line for the user.

        >>> Int8Speed(410.2, 102.6).said
        'measured now, one thread: u8 x s8 products 410 GOPS, fp32 103: 4.0 times as fast'
        """
        speeds = f"u8 x s8 products {self.int8:.0f} GOPS, fp32 {self.fp32:.0f}"
        return f"measured now, one thread: {speeds}: {self.int8 / self.fp32:.1f} times as fast"


@functools.cache
def int8_speed() -> Int8Speed:
    """Time a product of unsigned activations and signed weights and the same in float32, the best of some rounds.

    Raises:
        TargetError: ONNX Runtime does not run one of them.
    """
    rng = np.random.default_rng(0)
    kinds = {"int8": ("MatMulInteger", np.uint8, np.int8), "fp32": ("MatMul", np.float32, np.float32)}
    found = {}
    for name, (operator, left, right) in kinds.items():
        weight = rng.integers(-64, 65, (SIZE, SIZE)).astype(right)
        x = rng.integers(0, 255, (ROWS, SIZE)).astype(left)
        runner = session(_product(operator, x.dtype, weight))
        best = measure({name: runner}, {"x": x}, rounds=_ROUNDS, warmup=1)[name].min_ms
        found[name] = 2 * ROWS * SIZE * SIZE / best / 1e6
    return Int8Speed(**found)


def _product(operator: str, left: np.dtype[Any], weight: npt.NDArray[Any]) -> bytes:
    kind = TensorProto.INT32 if operator == "MatMulInteger" else TensorProto.FLOAT
    x = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(left), ["rows", SIZE])
    y = helper.make_tensor_value_info("y", kind, ["rows", SIZE])
    nodes = [helper.make_node(operator, ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, operator, [x], [y], [numpy_helper.from_array(weight, "w")])
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    serialized: bytes = made.SerializeToString()
    return serialized
