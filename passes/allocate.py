"""Choose how many bits each tensor gets."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Pass, Site, Stage
from bct_onnx.course import Course
from bct_onnx.errors import UsageError
from bct_onnx.study.allocation import allocate, noise_table


@dataclasses.dataclass(frozen=True)
class Allocate(Pass):
    """Give each weight and table the bits and block with which the whole model makes least noise at a wanted size.

    Why:
        Tensors differ a hundredfold in what a bit of theirs does to the outputs. At the same size a model whose bits
        went where they count keeps several dB more than one with the same bits everywhere.

    Before/after:
        The graph stays as it is; the passes behind, which store tensors, find the formats beside the initializers.
        Formats that these passes were given by option win.

    Declines:
        Nothing: where no pass behind it stores a tensor, or the size cannot be reached, that is an error.

    Options:
        ratio: Times smaller than fp32 by parameters, everything that is stored counted.
        bits: Instead, unless it is 0: stored bits per parameter, everything counted.
        row-widths: Also try to give each row of a table 1 to 8 bits by its use, where calibrate has read data.

    Promise:
        Exact: nothing is changed.

    >>> import numpy as np
    >>> from bct_onnx.graph import tensors
    >>> from bct_onnx.rewriting import rewrite
    >>> x = ir.Value(name="x", shape=ir.Shape(["n", 64]), type=ir.TensorType(ir.DataType.FLOAT))
    >>> model = ir.Model(ir.Graph([x], [], nodes=[], opset_imports={"": 21}, name="two products"), ir_version=10)
    >>> weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    >>> loud, quiet = tensors.constant(model.graph, "loud", weight), tensors.constant(model.graph, "quiet", weight / 99)
    >>> products = [ir.node("MatMul", [x, weight]) for weight in (loud, quiet)]
    >>> y = ir.node("Add", [product.outputs[0] for product in products])
    >>> model.graph.extend([*products, y])
    >>> y.outputs[0].name, y.outputs[0].shape, y.outputs[0].type = "y", x.shape, x.type
    >>> model.graph.outputs.append(y.outputs[0])
    >>> report = rewrite(model, "allocate{bits=3.5},quantize-weights")
    >>> [site.note[0] for site in report.steps[0].sites]
    ['4', '2']
    """

    name: ClassVar[str] = "allocate"
    stage: ClassVar[Stage] = Stage.ALLOT

    ratio: float = 10.0
    bits: float = 0.0
    row_widths: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.ratio < math.inf or not 0 <= self.bits < math.inf:
            problem = f"ratio={self.ratio:g} bits={self.bits:g} is no size"
            raise UsageError(problem, fix="give a ratio such as 10, or bits such as 3.2")

    def apply(self, model: ir.Model) -> Applied:
        """Leave formats in the ``meta`` of every initializer that the passes behind store, and the `Allocation`.

        Raises:
            GateError: No pass behind stores a tensor of the model, or its outputs are not finite.
            UsageError: The size cannot be reached, or the calibration data cannot be used.
            TargetError: ONNX Runtime cannot run the model.
        """
        table = noise_table.measured(model, Course.of(model), row_widths=self.row_widths)
        allocation = allocate(table, table.total(self.ratio, self.bits))
        sites: list[Site] = []
        for tensor, option in allocation.pairs:
            note = f"{option}, {option.bits / tensor.values:.2f} bits per weight"
            sites.append(Site(tensor.name, (), f"{note}, noise {option.noise:.2e}"))
        allocation.leave(model)
        note = f"predicted {allocation.ratio:.2f}x; noise {allocation.noise:.3g} ({table.unit}, on {table.source})"
        if table.coverage:
            note = f"{note}; {table.coverage}"
        return Applied(model, sites, modified=False, note=note)
