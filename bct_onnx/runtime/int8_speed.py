"""Which int8 kernels this process really gets: measured, since the CPU's flags do not tell.

ONNX Runtime 1.32 leaves AMX off in a process that is bound to one CPU when it is imported, and virtual machines hide
or emulate instructions. All products together take a blink, so that `bench` and `rewrite` can say what they ran with.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from bct_onnx.runtime.latency import CpuFeatures, measure_series
from bct_onnx.runtime.session import session

ROWS, SIZE = 128, 768
_ROUNDS = 8
_PRODUCTS = {
    "int8": ("MatMulInteger", np.uint8, np.int8),
    "unsigned": ("MatMulInteger", np.uint8, np.uint8),
    "fp32": ("MatMul", np.float32, np.float32),
}
_X86 = ("x86_64", "AMD64")
AMX, VNNI = 5.0, 1.8
"""From how many times the speed of u8 x u8 products those of u8 x s8 run on AMX, or on VNNI. ONNX Runtime has such
kernels for signed weights alone: 7 to 20 times were measured with AMX, 2.6 to 3.6 with VNNI, 1.3 with AVX2. Other load
on the machine meets both alike."""


@dataclasses.dataclass(frozen=True)
class Int8Speed:
    """Billions of operations per second of one thread, a multiplication and an addition counting as two.

    Attributes:
        int8: Of unsigned activations and signed weights.
        unsigned: Of unsigned activations and unsigned weights.
        fp32: Of floats.
    """

    int8: float
    unsigned: float
    fp32: float

    @property
    def kernels(self) -> str:
        """The instructions that such speeds come from on x86.

        >>> [Int8Speed(speed, 150.0, 100.0).kernels for speed in (1500.0, 500.0, 190.0)]
        ['AMX', 'VNNI', 'AVX2']
        """
        times = self.int8 / self.unsigned
        if times >= AMX:
            return "AMX"
        return "VNNI" if times >= VNNI else "AVX2"

    def summary(self, cpu: CpuFeatures) -> str:
        """One line for the user, with a warning where the CPU has instructions that are not used.

        >>> Int8Speed(190.2, 130.0, 95.1).summary(CpuFeatures("x86_64", "EPYC", ("avx2",)))
        'measured now, one thread: u8 x s8 products 190 GOPS (as AVX2 gives them), u8 x u8 130, fp32 95: 2.0 times fp32'
        """
        is_x86, unused = cpu.architecture in _X86, ""
        source = f" (as {self.kernels} gives them)" if is_x86 else ""
        if is_x86 and "amx" in (cpu.flags or ()) and self.kernels != "AMX":
            unused = "; this CPU has AMX, which is off where a process is bound to one CPU before it loads onnxruntime"
        elif is_x86 and "vnni" in (cpu.flags or ()) and self.kernels == "AVX2":
            unused = "; this CPU lists VNNI, which these products do not seem to use"
        speeds = f"u8 x s8 products {self.int8:.0f} GOPS{source}, u8 x u8 {self.unsigned:.0f}, fp32 {self.fp32:.0f}"
        return f"measured now, one thread: {speeds}: {self.int8 / self.fp32:.1f} times fp32{unused}"


@functools.cache
def int8_speed() -> Int8Speed:
    """Time the products in turn, the best of some rounds.

    Raises:
        TargetError: ONNX Runtime does not run one of them.
    """
    rng = np.random.default_rng(0)
    sessions, series = {}, {}
    for name, (operator, left, right) in _PRODUCTS.items():
        weight = (rng.integers(-64, 65, (SIZE, SIZE)) + (128 if right is np.uint8 else 0)).astype(right)
        x = rng.integers(0, 255, (ROWS, SIZE)).astype(left)
        sessions[name] = session(_product(operator, x.dtype, weight))
        series[name] = [[{"x": x}]]
    times = measure_series(sessions, series, rounds=_ROUNDS)
    return Int8Speed(**{name: 2 * ROWS * SIZE * SIZE / latency.min_ms / 1e6 for name, latency in times.items()})


def _product(operator: str, left: np.dtype[Any], weight: npt.NDArray[Any]) -> bytes:
    kind = TensorProto.INT32 if operator == "MatMulInteger" else TensorProto.FLOAT
    x = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(left), ["rows", SIZE])
    y = helper.make_tensor_value_info("y", kind, ["rows", SIZE])
    nodes = [helper.make_node(operator, ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, operator, [x], [y], [numpy_helper.from_array(weight, "w")])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    serialized: bytes = model.SerializeToString()
    return serialized
