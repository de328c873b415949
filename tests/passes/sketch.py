"""Sketches of models whose parts are drawn, and what lifting makes of them held against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from hypothesis import assume
from hypothesis import strategies as st

from bct_onnx.errors import TargetError
from bct_onnx.graph.tensors import Array
from bct_onnx.runtime.session import run, session
from passes.clean_up import CleanUp
from passes.fold_constants import FoldConstants
from passes.fuse_attention import FuseAttention
from passes.fuse_gelu import FuseGelu
from passes.fuse_layer_norm import FuseLayerNorm
from passes.fuse_linear import FuseLinear
from passes.fuse_rms_norm import FuseRmsNorm
from passes.fuse_softmax import FuseSoftmax

Draw = Callable[[st.SearchStrategy[Any]], Any]
LIFT = (
    *(FoldConstants(), FuseGelu(), FuseLayerNorm(), FuseRmsNorm(), FuseLinear(), FuseSoftmax(), FuseAttention()),
    CleanUp(),
)
SIZES = {"a": 2, "b": 3, "c": 4, "k": 5, "h": 2}
ALONE = {"a": 1, "b": 1, "c": 1, "k": 1, "h": 2}


class Sketch:
    """ONNX text with constants that are drawn on the way."""

    def __init__(self, draw: Draw) -> None:
        self.draw, self.lines, self.constants = draw, list[str](), list[str]()

    def one(self, *options: Any) -> Any:
        """One of these."""
        return self.draw(st.sampled_from(options))

    def constant(self, *shape: int) -> str:
        """Float numbers of one sign, of this shape."""
        rng = np.random.default_rng(len(self.constants))
        numbers = ", ".join(f"{number:.4f}" for number in rng.uniform(0.5, 1.5, int(np.prod(shape, dtype=int))))
        return self.given("float", numbers, *shape)

    def given(self, dtype: str, numbers: object, *shape: int) -> str:
        """These numbers."""
        name = f"c{len(self.constants)}"
        dims = f"[{', '.join(map(str, shape))}]" if shape else ""
        self.constants.append(f"{dtype}{dims} {name} = {{{numbers}}}")
        return name

    def op(self, call: str) -> str:
        """One node; gives the name of its result."""
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {call}")
        return name

    def either(self, op_type: str, one: str, other: str) -> str:
        """A commutative operator, either way round."""
        return self.op(f"{op_type} ({one}, {other})" if self.one(True, False) else f"{op_type} ({other}, {one})")

    def text(self, inputs: str, *outputs: str) -> str:
        """The model; outputs have no declared shape."""
        ends = [self.op(f"Identity ({output})") for output in outputs]
        constants = f"<{', '.join(self.constants)}>" if self.constants else ""
        return (
            f'<ir_version: 10, opset_import: ["": 23]> g ({inputs}) => ({", ".join(f"float {end}" for end in ends)})'
            f" {constants} {{ {' '.join(self.lines)} }}"
        )


def parsed(text: str) -> ir.Model:
    model = ir.from_onnx_text(text)
    for output in model.graph.outputs:
        output.shape = None
    return model


def feeds(model: ir.Model, sizes: dict[str, int]) -> dict[str, Array]:
    rng, made = np.random.default_rng(0), {}
    for value in model.graph.inputs:
        assert value.shape is not None and value.dtype is not None
        shape = [size if isinstance(size, int) else sizes.get(size.value or "", 4) for size in value.shape]
        data = rng.normal(size=shape) * 2
        made[value.name or ""] = data > 0 if value.dtype == ir.DataType.BOOL else data.astype(value.dtype.numpy())
    return made


def assert_lifted(text: str) -> None:
    """Lifting changes no result at any size at which ONNX Runtime runs the source."""
    source, lifted = parsed(text), parsed(text)
    for one in LIFT:
        one(lifted)
    ran = 0
    for sizes in (SIZES, ALONE):
        given = feeds(source, sizes)
        try:
            expected = run(session(source, optimize="disabled"), given)
        except TargetError:
            continue
        ran += 1
        results = run(session(lifted, optimize="disabled"), given)
        for result, array in zip(results, expected, strict=True):
            assert result.shape == array.shape and result.dtype == array.dtype
            np.testing.assert_allclose(result, array, rtol=1e-4, atol=1e-5)
    assume(ran)
