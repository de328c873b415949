"""What a pipeline stores in few bits: found by letting its own passes do it once, fast and coarse."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.base import EXACT, Applied, Pass
from bct_onnx.errors import GateError
from bct_onnx.graph import tensors
from bct_onnx.graph.inventory import PARAMETERS, inventory
from bct_onnx.graph.load import load
from bct_onnx.pipeline import Pipeline
from bct_onnx.progress import Progress
from bct_onnx.quant import Scheme
from bct_onnx.quant.formats import Formats
from bct_onnx.rewriting import refuse_quantized
from bct_onnx.runtime.statistics import KEY, ChannelStatistics
from bct_onnx.storing import StoringPass

CALIBRATED = 256
"""Sequences that calibrate reads for a plan where it may choose: enough for that, and the others are for measuring."""

Matrix = npt.NDArray[np.float32]

COARSE = {"bits": 8, "search": "max", "solver": "nearest"}
"""Options with which a pass stores its tensors at once, whatever they are worth."""


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor that a pass stores in few bits.

    Attributes:
        name: Of the initializer.
        by: The pass.
        value: The initializer in the float model.
        flipped: Whether what the pass quantizes, [K, N], is the transpose of the initializer (a table's rows are
            columns then).
        is_table: Whether rows of it are looked up.
        is_tied: Whether it is both looked up and multiplied by.
        statistics: Of what it is multiplied by, as far as calibrated.
    """

    name: str
    by: Pass
    value: ir.Value
    flipped: bool
    is_table: bool
    is_tied: bool
    statistics: ChannelStatistics | None

    @property
    def shape(self) -> tuple[int, int]:
        """K and N of what the pass quantizes."""
        rows, columns = self._tensor.shape.numpy()
        return (columns, rows) if self.flipped else (rows, columns)

    @property
    def dtype(self) -> ir.DataType:
        """Type of the initializer."""
        return self._tensor.dtype

    @property
    def block(self) -> int | tuple[int, int]:
        """The pass's own block."""
        block = dict(self.by.options(defaults=True)).get("block")
        return block if isinstance(block, int | tuple) else 32

    def matrix(self) -> npt.NDArray[Any]:
        """What the pass quantizes, [K, N], in its own type."""
        array = tensors.array(self._tensor)
        return array.T if self.flipped else array

    def as_stored(self, matrix: Matrix) -> npt.NDArray[Any]:
        """A matrix [K, N] in the shape and type of the initializer."""
        return np.ascontiguousarray(matrix.T if self.flipped else matrix, dtype=self.dtype.numpy())

    def stored_bits(self, bits: int, block: int | tuple[int, int], rows: int | None = None) -> int:
        """Bits it takes in a format, scales and all; of a table, so many of its rows: each begins at a byte."""
        options = dict(self.by.options(defaults=True))
        scheme = Scheme(bits, block, bool(options.get("symmetric", True)), str(options.get("scale", "two-level")))
        k, n = self.shape
        return 8 * (scheme.nbytes(k, 1) * (n if rows is None else rows) if self.is_table else scheme.nbytes(k, n))

    @property
    def _tensor(self) -> ir.TensorProtocol:
        assert self.value.const_value is not None  # it is an initializer
        return self.value.const_value


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A model ready to be quantized.

    Attributes:
        model: After the exact passes at the beginning of the pipeline, with statistics.
        tensors: What is going to be quantized, in the order of the passes.
        fixed_bits: Bits of everything else that the pipeline's result stores.
        parameters: Of the model as it came, each counted once.
    """

    model: ir.Model
    tensors: tuple[Tensor, ...]
    fixed_bits: int
    parameters: int


def prepare(source: Path, passes: Pipeline, progress: Progress) -> Prepared:
    """Run the exact passes that a pipeline begins with, and find out what the others store.

    Args:
        source: The float model.
        passes: All passes to run, the target's too.
        progress: Told about passes as they start.

    Raises:
        InputModelError: The model cannot be used, or is quantized already.
        GateError: The pipeline quantizes no tensor of this model.
    """
    model = load(source)
    refuse_quantized(model, passes)
    parameters = inventory(model).parameters
    every = tuple(passes)
    first = next((number for number, one in enumerate(every) if one.promise != EXACT), len(every))
    for number, one in enumerate(every[:first]):
        progress(one.name, number, first)
        chooses = dict(one.options(defaults=True)).get("samples") == 0
        _run(with_options(one, {"samples": CALIBRATED}) if chooses else one, model)
        parameters = min(parameters, inventory(model).parameters)
    if not any(_is_storing(one) for one in every[first:]):
        fix = "use a preset such as bct-plus, or passes with quantize-weights"
        raise GateError("the pipeline stores no tensor in few bits", where=str(passes), fix=fix)
    after = model.clone()
    after.metadata_props[PARAMETERS] = str(parameters)
    found, reasons = _stored(model, after, every[first:])
    if not found:
        raise GateError("no tensor of the model can be quantized", where=str(source), why="; ".join(reasons))
    coarse = sum(one.stored_bits(8, one.block) for one in found)
    return Prepared(model, tuple(found), 8 * inventory(after).nbytes - coarse, parameters)


def _stored(model: ir.Model, after: ir.Model, passes: Sequence[Pass]) -> tuple[list[Tensor], Iterable[str]]:
    """Run all passes on ``after``, those that store tensors coarsely; what they stored, and what they declined."""
    found: list[Tensor] = []
    reasons: dict[str, None] = {}
    for one in passes:
        storing = _is_storing(one)
        applied = _run(with_options(one, COARSE) if storing else one, after)
        if storing:
            reasons |= dict.fromkeys(declined.reason for declined in applied.declined)
            values = [model.graph.initializers.get(site.name) for site in applied.sites]
            free = [value for value in values if value is not None and not _is_fixed(value, one)]  # none of subgraphs
            found += [_tensor(value, one) for value in free]
    return found, reasons


def own_formats(one: Pass) -> tuple[str, ...]:
    """The formats that a pass has of its own."""
    formats = dict(one.options(defaults=True)).get("formats")
    return formats if isinstance(formats, tuple) else ()


def _is_fixed(value: ir.Value, by: Pass) -> bool:
    """Whether the user has given a format for it."""
    names = (value.name, *(use.node.name for use in value.uses()))
    return Formats(own_formats(by), Scheme(4, 32)).find(*names) is not None


def with_options(one: Pass, options: Mapping[str, object]) -> Pass:
    """A pass with those of some options that it has."""
    names = {field.name for field in dataclasses.fields(one)}
    changed: dict[str, Any] = {name: value for name, value in options.items() if name in names}
    return dataclasses.replace(one, **changed)


def _is_storing(one: Pass) -> bool:
    return isinstance(one, StoringPass)


def _run(one: Pass, model: ir.Model) -> Applied:
    applied = one(model)
    assert isinstance(applied, Applied)
    return applied


def _tensor(value: ir.Value, by: Pass) -> Tensor:
    users = [use.node for use in value.uses()]
    looked_up = any(node.op_type == "Gather" for node in users)
    through = [use.node for node in users if node.op_type == "Transpose" for use in node.outputs[0].uses()]
    products = [node for node in (*users, *through) if node.op_type in ("MatMul", "Gemm")]
    flipped = any(node.op_type == "Transpose" or node.attributes.get_int("transB", 0) == 1 for node in users)
    entering = [node.inputs[0].meta.get(KEY) for node in products if node.inputs[0] is not None]
    statistics = next((one for one in entering if isinstance(one, ChannelStatistics)), None)
    return Tensor(
        value.name or "", by, value, flipped or looked_up, looked_up, looked_up and bool(products), statistics
    )
