"""What torch computes for each operator between the stored weights of a transformer and its outputs.

A function takes the node and its inputs (None for an optional one that is left out) and gives its output, or a tuple of
its outputs. Formulas are those of the ONNX operator specification; all floats are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.nn import functional

from bct_onnx.graph.known import from_start

Tensor = Any
"""A torch.Tensor; torch is not typed where it is not installed."""

Operator = Callable[[ir.Node, Sequence[Tensor]], Any]

OPERATORS: dict[str, Operator] = {}
"""By operator, as `bct_onnx.base.identifier` writes it."""


def _operator(*names: str) -> Callable[[Operator], Operator]:
    def register(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


def _elementwise(**functions: Callable[..., Tensor]) -> None:
    """Operators that are a function of torch, without attributes."""
    for name, function in functions.items():
        OPERATORS[name] = _plain(function)


def _plain(function: Callable[..., Tensor]) -> Operator:
    def compute(node: ir.Node, inputs: Sequence[Tensor]) -> Tensor:
        return function(*inputs)

    return compute


_elementwise(
    MatMul=torch.matmul,
    Add=torch.add,
    Sub=torch.sub,
    Mul=torch.mul,
    Pow=torch.pow,
    Sqrt=torch.sqrt,
    Reciprocal=torch.reciprocal,
    Neg=torch.neg,
    Abs=torch.abs,
    Exp=torch.exp,
    Log=torch.log,
    Erf=torch.erf,
    Tanh=torch.tanh,
    Sigmoid=torch.sigmoid,
    Relu=torch.relu,
    Softplus=functional.softplus,
    Cos=torch.cos,
    Sin=torch.sin,
    Identity=lambda x: x,
    Where=torch.where,
    HardSwish=functional.hardswish,
    Mish=functional.mish,
)


@_operator("Div")
def _div(node: ir.Node, inputs: Sequence[Tensor]) -> Tensor:
    dividend, divisor = inputs
    return torch.div(dividend, divisor, rounding_mode=None if dividend.is_floating_point() else "trunc")


@_operator("Max", "Min")
def _extreme(node: ir.Node, inputs: Sequence[Tensor]) -> Tensor:
    pick = torch.maximum if node.op_type == "Max" else torch.minimum
    result = inputs[0]
    for other in inputs[1:]:
        result = pick(result, other)
    return result


@_operator("Clip")
def _clip(node: ir.Node, inputs: Sequence[Tensor]) -> Tensor:
    low, high = (*inputs[1:], None, None)[:2]
    return torch.clamp(inputs[0], min=low, max=high)


@_operator("Cast")
def _cast(node: ir.Node, inputs: Sequence[Tensor]) -> Tensor:
    kind = ir.DataType(node.attributes["to"].as_int())
    if kind.is_floating_point():
        return inputs[0].float()
    if kind == ir.DataType.BOOL:
        return inputs[0].bool()
    return inputs[0].long()


@_operator("Gelu")
def _gelu(node: ir.Node, inputs: Sequence[Tensor]) -> Tensor:
    return functional.gelu(inputs[0], approximate=node.attributes.get_string("approximate", "none"))


@_operator("Swish")
def _swish(node: ir.Node, inputs: Sequence[Tensor]) -> Tensor:
    return inputs[0] * torch.sigmoid(node.attributes.get_float("alpha", 1.0) * inputs[0])


@_operator("Gemm")
def _gemm(node: ir.Node, inputs: Sequence[Tensor]) -> Tensor:
    left, right, bias = (*inputs, None)[:3]
    if node.attributes.get_int("transA", 0):
        left = left.T
    if node.attributes.get_int("transB", 0):
        right = right.T
    product = node.attributes.get_float("alpha", 1.0) * (left @ right)
    if bias is None:
        return product
    return product + node.attributes.get_float("beta", 1.0) * bias


@_operator("Softmax", "LogSoftmax")
def _softmax(node: ir.Node, inputs: Sequence[Tensor]) -> Tensor:
    function = torch.softmax if node.op_type == "Softmax" else torch.log_softmax
    return function(inputs[0], dim=node.attributes.get_int("axis", -1))


@_operator("LayerNormalization")
def _layer_norm(node: ir.Node, inputs: Sequence[Tensor]) -> Tensor:
    x, gamma, beta = (*inputs, None)[:3]
    axes = tuple(range(_axis(node, x), x.ndim))
    centred = x - x.mean(dim=axes, keepdim=True)
    variance = centred.square().mean(dim=axes, keepdim=True)
    normalized = centred * torch.rsqrt(variance + node.attributes.get_float("epsilon", 1e-5)) * gamma
    if beta is None:
        return normalized
    return normalized + beta


@_operator("RMSNormalization")
def _rms_norm(node: ir.Node, inputs: Sequence[Tensor]) -> Tensor:
    x, gamma = inputs
    axes = tuple(range(_axis(node, x), x.ndim))
    mean = x.square().mean(dim=axes, keepdim=True)
    return x * torch.rsqrt(mean + node.attributes.get_float("epsilon", 1e-5)) * gamma


@_operator("ReduceMean", "ReduceSum", "ReduceL2")
def _reduce(node: ir.Node, inputs: Sequence[Tensor]) -> Tensor:
    x, axes = (*inputs, None)[:2]
    dims = tuple(range(x.ndim)) if axes is None else tuple(axes.tolist())
    keep = bool(node.attributes.get_int("keepdims", 1))
    if node.op_type == "ReduceMean":
        return x.mean(dim=dims, keepdim=keep)
    if node.op_type == "ReduceSum":
        return x.sum(dim=dims, keepdim=keep)
    return torch.linalg.vector_norm(x, dim=dims, keepdim=keep)


@_operator("Transpose")
def _transpose(node: ir.Node, inputs: Sequence[Tensor]) -> Tensor:
    x = inputs[0]
    perm = node.attributes.get_ints("perm", tuple(reversed(range(x.ndim))))
    return x.permute(*perm)


@_operator("Reshape")
def _reshape(node: ir.Node, inputs: Sequence[Tensor]) -> Tensor:
    x, wanted = inputs[0], inputs[1].tolist()
    if not node.attributes.get_int("allowzero", 0):
        wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return x.reshape(wanted)


@_operator("Flatten")
def _flatten(node: ir.Node, inputs: Sequence[Tensor]) -> Tensor:
    axis = node.attributes.get_int("axis", 1)
    leading = 1
    for size in inputs[0].shape[:axis]:
        leading *= size
    return inputs[0].reshape(leading, -1)


@_operator("Expand")
def _expand(node: ir.Node, inputs: Sequence[Tensor]) -> Tensor:
    shape = torch.broadcast_shapes(inputs[0].shape, tuple(inputs[1].tolist()))
    return inputs[0].expand(shape)


@_operator("Squeeze")
def _squeeze(node: ir.Node, inputs: Sequence[Tensor]) -> Tensor:
    if len(inputs) < 2:
        return inputs[0].squeeze()
    return inputs[0].squeeze(tuple(inputs[1].tolist()))


@_operator("Unsqueeze")
def _unsqueeze(node: ir.Node, inputs: Sequence[Tensor]) -> Tensor:
    x, axes = inputs[0], inputs[1].tolist()
    for axis in sorted(from_start(axes, x.ndim + len(axes))):
        x = x.unsqueeze(axis)
    return x


@_operator("Concat")
def _concat(node: ir.Node, inputs: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(inputs), dim=node.attributes["axis"].as_int())


@_operator("Split")
def _split(node: ir.Node, inputs: Sequence[Tensor]) -> Any:
    axis, x = node.attributes.get_int("axis", 0), inputs[0]
    if len(inputs) > 1:
        return torch.split(x, inputs[1].tolist(), dim=axis)
    return torch.split(x, -(-x.shape[axis] // len(node.outputs)), dim=axis)


@_operator("Slice")
def _slice(node: ir.Node, inputs: Sequence[Tensor]) -> Tensor:
    x, starts, ends, axes, steps = (*inputs, None, None)[:5]
    every = range(len(starts)) if axes is None else axes.tolist()
    for number, axis in enumerate(every):
        step = 1 if steps is None else int(steps[number])
        positions = range(x.shape[axis])[int(starts[number]) : int(ends[number]) : step]
        x = x.index_select(axis, torch.tensor(list(positions), dtype=torch.long))
    return x


@_operator("Gather")
def _gather(node: ir.Node, inputs: Sequence[Tensor]) -> Tensor:
    x, indices = inputs
    axis = node.attributes.get_int("axis", 0) % x.ndim
    chosen = x.index_select(axis, indices.long().reshape(-1) % x.shape[axis])
    return chosen.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


@_operator("Attention")
def _attention(node: ir.Node, inputs: Sequence[Tensor]) -> Any:
    """Scaled dot products of queries, keys and values [batch, tokens, heads * channels] or [batch, heads, tokens,
    channels], with kept keys and values, and a mask that is added or that says what is seen."""
    query, key, value, mask, past_key, past_value = (*inputs, None, None, None)[:6]
    is_flat = query.ndim == 3
    if is_flat:
        query = _heads(query, node.attributes["q_num_heads"].as_int())
        number = node.attributes["kv_num_heads"].as_int()
        key, value = _heads(key, number), _heads(value, number)
    if past_key is not None:
        key, value = torch.cat([past_key, key], dim=2), torch.cat([past_value, value], dim=2)
    present = key, value
    key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], dim=1) for each in present)
    scale = node.attributes.get_float("scale", 0.0) or query.shape[-1] ** -0.5
    scores = (query * scale) @ key.transpose(2, 3)
    scores = _masked(scores, mask, is_causal=bool(node.attributes.get_int("is_causal", 0)))
    result = torch.softmax(scores, dim=-1) @ value
    if is_flat:
        result = result.transpose(1, 2).flatten(2)
    return (result, *present)


def _masked(scores: Tensor, mask: Tensor, *, is_causal: bool) -> Tensor:
    """Scores [batch, heads, queries, keys] of what is seen; a causal mask is aligned at the last key."""
    lowest = torch.finfo(scores.dtype).min
    if mask is not None:
        scores = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask
    if is_causal:
        queries, keys = scores.shape[-2:]
        seen = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
        scores = scores.masked_fill(~seen, lowest)
    return scores


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _axis(node: ir.Node, x: Tensor) -> int:
    return node.attributes.get_int("axis", -1) % int(x.ndim)
