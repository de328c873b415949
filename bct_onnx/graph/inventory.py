"""What a model is made of: parameters, bytes by kind, operators, and the float weights that are still there."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator

import onnx_ir as ir

from bct_onnx.graph import operators, walk
from bct_onnx.graph.functions import DOMAIN
from bct_onnx.graph.neighbours import is_read, made_by, operand, outputs_of, producer, reached
from bct_onnx.graph.tensors import FLOATS
from bct_onnx.quant.sizes import total_nbytes

TRAINED = "bct_onnx.trained"
"""Key in ``metadata_props``: what a model was trained on, for how long, and what that brought on texts held back."""

PARAMETERS = "bct_onnx.parameters"
"""Key in ``metadata_props``: number of parameters before compression."""

BYTES = "bct_onnx.bytes"
"""Key in ``metadata_props``: bytes of weights as they were written."""

_CODES = (ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT2, ir.DataType.UINT2)
_KINDS = {
    **dict.fromkeys(operators.named("lookup") | {"Gather"}, "embedding"),
    **dict.fromkeys(operators.named("product", "integer product", "few-bit product"), "matmul"),
    **dict.fromkeys(("Conv", "ConvTranspose"), "convolution"),
    **dict.fromkeys(operators.named("recurrence"), "recurrence"),
    **dict.fromkeys(operators.named("normalization"), "norm"),
    "Add": "bias",
}
"""What a weight is, by the operator that uses it."""
_KINDS_BY_WEIGHT = ("embedding", "matmul", "convolution", "recurrence", "norm", "bias")
"""Which of its uses says what a weight is, the first that it has."""
_REASONS = {
    "norm": "parameters of a normalization",
    "bias": "a bias, added to a float or int32 result",
    "convolution": "the weight of a convolution",
    "recurrence": "the weight of a recurrent cell",
    "scale": "a scale of quantized weights",
}


@dataclasses.dataclass(frozen=True)
class Weight:
    """One stored tensor.

    Attributes:
        name: Of the initializer.
        kind: embedding, matmul, convolution, recurrence, norm, bias, other; scale for the scales of codes and the
            places of rows; index for integers and single numbers that are no weights.
        dtype: ONNX type name.
        count: Number of values.
        nbytes: Stored bytes.
    """

    name: str
    kind: str
    dtype: str
    count: int
    nbytes: int

    @property
    def is_float(self) -> bool:
        """Whether it is a parameter kept in floating point (scales of codes are not)."""
        return self.kind not in ("index", "scale") and any(self.dtype == dtype.name for dtype in FLOATS)


@dataclasses.dataclass(frozen=True)
class Inventory:
    """All weights and operators of a model."""

    weights: tuple[Weight, ...]
    operators: dict[str, int]
    parameters: int

    @property
    def nbytes(self) -> int:
        """Bytes of everything that stands for parameters: codes, multipliers, scales, biases, norms."""
        return sum(weight.nbytes for weight in self.weights if weight.kind != "index")

    @property
    def stored(self) -> int:
        """Bytes of all tensors."""
        return total_nbytes(self.weights)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per parameter of the original model."""
        if self.parameters:
            return 8 * self.nbytes / self.parameters
        return 0.0

    @property
    def ratio_parameters(self) -> float:
        """fp32 parameter bits over stored parameter bits."""
        if self.nbytes and self.parameters:
            return 32 / self.bits_per_weight
        return 1.0

    def bytes_by_kind(self) -> dict[str, int]:
        """Stored bytes of each kind, the largest first."""
        totals: Counter[str] = Counter()
        for weight in self.weights:
            totals[weight.kind] += weight.nbytes
        return dict(totals.most_common())

    def float_weights_left(self, reasons: dict[str, str]) -> list[tuple[str, int, str]]:
        """``(name, bytes, reason)`` of every parameter still in floating point, the largest first.

        Args:
            reasons: Why a pass declined a tensor, by its name.
        """
        left = [weight for weight in self.weights if weight.is_float]
        left.sort(key=lambda weight: (-weight.nbytes, weight.name))
        rows = []
        for weight in left:
            usual = _REASONS.get(weight.kind, f"used in another way ({weight.kind})")
            rows.append((weight.name, weight.nbytes, reasons.get(weight.name) or usual))
        return rows


def inventory(model: ir.Model) -> Inventory:
    """Count everything in ``model``; no weight is read."""
    weights = tuple(_weigh(value, tensor) for value, tensor in _stored(model) if is_read(value))
    counts = Counter(map(operators.dotted, walk.nodes(model.graph)))
    stamped = model.metadata_props.get(PARAMETERS, "")
    counted = sum(map(_parameters, weights))
    return Inventory(weights, dict(counts.most_common()), int(stamped) if stamped.isdigit() else counted)


def _stored(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Every tensor wherever it lies: initializers and ``Constant`` nodes of graphs, their branches and of functions.

    Functions of this tool are spellings; what stands in them are no weights.
    """
    functions = [function for function in model.functions.values() if function.domain != DOMAIN]
    for graph in (*walk.graphs(model.graph), *functions, *_within(functions)):
        if isinstance(graph, ir.Graph):
            for value in graph.initializers.values():
                if value.const_value is not None:
                    yield value, value.const_value
        for node in graph:
            if node.op_type == "Constant" and not node.domain and (tensor := _constant(node)) is not None:
                yield node.outputs[0], tensor


def _within(functions: Iterable[ir.Function]) -> Iterator[ir.Graph]:
    for function in functions:
        yield from function.subgraphs()


def _constant(node: ir.Node) -> ir.TensorProtocol | None:
    """The tensor of a ``Constant`` that is stored as one; numbers in attributes are small."""
    attribute = node.attributes.get("value")
    if attribute is None or attribute.is_ref():
        return None
    return attribute.as_tensor()


def _weigh(value: ir.Value, tensor: ir.TensorProtocol) -> Weight:
    return Weight(value.name or "", _kind(value, tensor), tensor.dtype.name, tensor.size, tensor.nbytes)


def _kind(value: ir.Value, tensor: ir.TensorProtocol) -> str:
    if any(operators.of(node).role(index) == "place" for node, index in value.uses()):
        return "scale"  # without them the codes could not be read
    if (tensor.dtype not in FLOATS and tensor.dtype not in _CODES) or tensor.size == 1:
        return "index"  # shapes, positions, and single numbers such as an epsilon or a zero point
    users = list(_users(value))
    kinds = list(itertools.starmap(_use, users))
    is_scale = tensor.dtype in FLOATS and any(itertools.starmap(_scales, users))
    if is_scale:
        return "scale"
    return next((kind for kind in _KINDS_BY_WEIGHT if kind in kinds), "other")


def _use(user: ir.Node, index: int) -> str:
    """What a weight is as input ``index`` of ``user``; empty for other operators."""
    operator = operators.of(user)
    kind = _KINDS.get(operator.name, "")
    is_added = kind == "matmul" and operator.role(index) == "bias"
    if is_added or (operator.name == "Div" and index == 0):  # which makes int32 of a bias when it is loaded
        return "bias"
    return kind


def _scales(user: ir.Node, index: int) -> bool:
    """Whether input ``index`` of ``user`` is a scale of codes."""
    if user.op_type == "Mul":
        return _is_decoded(user.inputs[1 - index])
    return operators.of(user).role(index).endswith("scale")


def _is_decoded(value: ir.Value | None) -> bool:
    """Whether a value is integers that are stored, or that a box of this tool decodes, as floats."""
    cast = made_by(value, "Cast")
    integers = operand(cast, 0)
    if integers is not None and integers.is_initializer():
        return integers.dtype in _CODES
    function = producer(integers)
    return function is not None and function.domain == DOMAIN and "Decode" in function.op_type


def _users(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """Operators that use ``value``, looking through those that only reshape, cast or decode constants."""
    for source in reached([value], _passed_on):
        yield from source.uses()


def _passed_on(value: ir.Value) -> Iterator[ir.Value]:
    return outputs_of(filter(_passes_through, value.consumers()))


def _passes_through(node: ir.Node) -> bool:
    if operators.kind(node) in ("view", "layout", "cast", "join", "decoder"):
        return True
    return node.op_type in ("DequantizeLinear", "Mul") and all(map(_fixed, node.inputs))


def _fixed(value: ir.Value | None) -> bool:
    """Whether a value is computed from initializers alone, within the few steps that decoding takes."""
    queue = [value]
    for _ in range(64):
        if not queue:
            return True
        reached = queue.pop()
        if reached is None or reached.is_initializer():
            continue
        producer = reached.producer()
        if producer is None:
            return False
        queue.extend(producer.inputs)
    return False


def _parameters(weight: Weight) -> int:
    if weight.kind in ("index", "scale"):
        return 0
    return weight.count


def unfolded(model: ir.Model, inventory: Inventory) -> str:
    """What another tool has made of a file of ours: decoded weights as constants; empty if they are as written."""
    stamped = model.metadata_props.get(BYTES, "")
    if not stamped.isdigit() or inventory.nbytes <= 1.02 * int(stamped):
        return ""
    return (
        f"its weights take {inventory.nbytes:,} bytes and were written in {int(stamped):,}: another tool has decoded"
        " them (onnxslim, onnxscript's optimizer and models that ONNX Runtime saves do);"
        " use the file as bct-onnx wrote it"
    )
