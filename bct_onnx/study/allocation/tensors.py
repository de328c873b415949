"""What the passes ahead are going to store in few bits, and what all else takes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import onnx_ir as ir

from bct_onnx.base import Pass, Stage, Use
from bct_onnx.course import Course
from bct_onnx.errors import GateError
from bct_onnx.graph.inventory import inventory
from bct_onnx.graph.neighbours import provided
from bct_onnx.quant import Scheme
from bct_onnx.storable import Storable
from bct_onnx.storing import CompressingPass, StoringPass


@dataclasses.dataclass(frozen=True)
class Tensors:
    """The tensors of a model that wait for their formats.

    Attributes:
        by_pass: Each with the name of the pass that stores it, in running order.
        fixed_bits: Bits of everything else that the result stores, at most: a float parameter may still become smaller.
        parameters: Of the model as it came, each counted once.
    """

    by_pass: tuple[tuple[str, Storable], ...]
    fixed_bits: int
    parameters: int


def find(model: ir.Model, course: Course) -> Tensors:
    """Ask the passes ahead what they are going to store.

    Raises:
        GateError: They store no tensor of this model.
    """
    found: list[tuple[str, Storable]] = []
    fixed_bits, done = 0, set[str]()
    for one in course.following:
        for stored in one.storables(model) if isinstance(one, StoringPass) else ():
            tensor = dataclasses.replace(stored, written=functools.partial(_written, stored, course.following))
            if tensor.is_free and tensor.name not in done:
                found.append((one.name, tensor))
            else:
                fixed_bits += tensor.stored_bits(tensor.job.scheme)
            done.add(tensor.name)
    if not found:
        fix = "use a preset such as bct-plus, or put quantize-weights behind allocate"
        raise GateError("no pass ahead stores a tensor of the model in few bits", fix=fix)
    stock = inventory(model)
    compressing = [one for one in course.following if isinstance(one, CompressingPass)]
    for weight in stock.weights:
        if weight.kind != "index" and weight.name not in done:
            fixed_bits += 8 * min(one.float_bytes(weight) for one in compressing)
    return Tensors(tuple(found), fixed_bits, course.parameters or stock.parameters)


def _written(tensor: Storable, following: Sequence[Pass], scheme: Scheme) -> int | None:
    """Bits that a pass ahead writes of a tensor that is stored in a scheme; None where all leave it as it is.

    A table that is multiplied by as well is written once for each use.
    """
    multiplied = Use.CODES if any(each.stage is Stage.CODE for each in following) else Use.FLOATS
    uses = [Use.ROWS] if tensor.is_table else []
    uses += [] if tensor.is_table and not tensor.is_tied else [multiplied]
    for each in following:
        written = [each.written_bits(tensor.shape, scheme, use) for use in uses]
        known = provided(written)
        if known:
            return sum(known)
    return None
