"""Which nodes of a model a target would not take, and why."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import onnx
import onnx_ir as ir

from bct_onnx.graph import kernels, operators, runtimes, walk
from bct_onnx.graph.known import open_dims
from bct_onnx.graph.neighbours import op_types
from bct_onnx.targets.target import Form, Target


@dataclasses.dataclass(frozen=True)
class Refused:
    """One node that a target would not take.

    Attributes:
        node: Its name; an input's name where its shape is the reason.
        operator: Its operator, as in target files.
        why: The reason, in words.
        falls_back: Whether the CPU provider may run it instead.
    """

    node: str
    operator: str
    why: str
    falls_back: bool


@dataclasses.dataclass(frozen=True)
class Legality:
    """What a target makes of a model.

    Attributes:
        target: Its name.
        nodes: How many nodes there are, functions inlined, without those that are constants once loaded.
        refused: The nodes that it would not take.
    """

    target: str
    nodes: int
    refused: tuple[Refused, ...]

    @property
    def taken(self) -> int:
        """How many nodes it takes; inputs, which it may refuse too, are none."""
        return self.nodes - sum(refused.operator != "input" for refused in self.refused)

    @property
    def illegal(self) -> tuple[Refused, ...]:
        """The nodes that nothing else may run either."""
        return tuple(refused for refused in self.refused if not refused.falls_back)

    @property
    def fallback(self) -> dict[str, int]:
        """Operators that fall back to the CPU provider, and how many of each, the most frequent first."""
        counts = collections.Counter(refused.operator for refused in self.refused if refused.falls_back)
        return dict(counts.most_common())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "target": self.target,
            "nodes": self.nodes,
            "fallback": self.fallback,
            "refused": list(map(dataclasses.asdict, self.refused)),
        }


def check(model: ir.Model, target: Target, copy: ir.Model | None = None) -> Legality:
    """Look at every node as the runtime would, functions inlined.

    What is computed from initializers alone is not looked at, except for what keeps weights quantized: the CPU provider
    makes constants of it when a session is created. Types and shapes are inferred; what is not known passes. No weight
    is read. ``copy`` is the model as `bct_onnx.graph.runtimes.expanded` gives it, where it is at hand.
    """
    expanded = copy or runtimes.expanded(model)
    folded = _Folded()
    refused = [*_declared(expanded, target)]
    count = 0
    for node in expanded.graph.all_nodes():
        if folded.visit(node):
            continue
        count += 1
        operator = operators.identifier(node)
        if why := _refusal(node, target, folded, expanded.opset_imports):
            refused.append(Refused(node.name or operator, operator, why, target.may_fall_back(operator)))
    if target.runtime:
        refused += _too_new(model, expanded, kernels.runtime(target.runtime))
    return Legality(target.name, count, tuple(refused))


def _too_new(model: ir.Model, expanded: ir.Model, runtime: kernels.Runtime) -> Iterator[Refused]:
    """What an older runtime does not run; it folds constants with the same kernels."""
    opset = model.opset_imports.get("", 0)
    if opset > runtime.opset:
        why = f"ONNX Runtime {runtime.version} loads up to {runtime.opset}"
        yield Refused(model.graph.name or "graph", f"opset {opset}", why, False)
        return
    for use in runtimes.uses(model, expanded):
        if why := runtimes.lacks(runtime, use, opset):
            yield Refused(use.operator, use.operator, why, False)


class _Folded:
    """The values that are constants once a model is loaded."""

    def __init__(self) -> None:
        self._values: set[ir.Value] = set()

    def visit(self, node: ir.Node) -> bool:
        """Whether ``node`` is gone by then; nodes come in order."""
        if operators.kind(node) == "quantizer" or walk.holds_graphs(node):
            return False
        if not all(map(self.holds, node.inputs)):
            return False
        self._values.update(node.outputs)
        return True

    def holds(self, value: ir.Value | None) -> bool:
        """Whether ``value`` is one of them, an initializer, or left out."""
        return value is None or value.is_initializer() or value in self._values


def _declared(model: ir.Model, target: Target) -> Iterator[Refused]:
    opset = model.opset_imports.get("", 0)
    if opset > target.opset:
        yield Refused(model.graph.name or "graph", "opset", f"it is {opset}; {target.opset} is the highest", False)
    if not target.fixed_shapes:
        return
    for value in model.graph.inputs:
        if value.shape is None:
            yield Refused(value.name or "", "input", "its shape is not known", False)
            continue
        if names := open_dims(value.shape):
            yield Refused(value.name or "", "input", f"dimension {', '.join(names)} has no fixed size", False)


def _refusal(node: ir.Node, target: Target, folded: _Folded, opsets: Mapping[str, int]) -> str:
    """Why ``target`` would not take ``node``; empty if it would."""
    if target.standard and onnx.defs.has(node.op_type, domain=node.domain):
        return ""
    if target.standard:
        return "it is no standard operator"
    operator, opset = operators.identifier(node), opsets.get(node.domain, 1)
    forms = target.accepts.get(operator, ())
    covering = [form for form in forms if form.covers(kernels.version(operator, opset))]
    reasons = [(0, "there is no kernel for it")]
    for form in covering:
        mismatch = next(_mismatches(node, form, target, folded, opset), None)
        if mismatch is None:
            return ""
        reasons.append(mismatch)
    if target.expands and _expands(operator, opset, target, has_kernel=bool(covering)):
        return ""
    if forms and not covering:
        return f"there is no kernel for it in opset {opset}, only in {_spans(forms)}"
    return max(reasons[1:] or reasons)[1]


def _spans(forms: Iterable[Form]) -> str:
    """The versions of an operator that there are kernels for."""
    spans = sorted({(form.kernel.since, form.kernel.end) for form in forms if form.kernel is not None})
    texts: list[str] = []
    for since, end in spans:
        if end in (0, since):
            texts.append(f"version {since}")
        else:
            texts.append(f"versions {since} to {end}")
    return ", ".join(texts)


def _mismatches(node: ir.Node, form: Form, target: Target, folded: _Folded, opset: int) -> Iterator[tuple[int, str]]:
    """Why ``form`` does not fit ``node``; a greater number for what is found later, when more of it fits."""
    for index, value in enumerate(node.inputs):
        allowed = form.types.get(
            str(index), form.types.get(runtimes.variable(operators.identifier(node), index, opset), ())
        )
        kind = runtimes.type_name(value)
        if allowed and kind and not _takes(allowed, kind, target.widens):
            yield 0, f"input {index} is {kind}; it takes {' '.join(sorted(allowed))}"
    for name, values in form.attributes.items():
        number = node.attributes.get_int(name, values[0])
        if number not in values:
            yield 1, f"{name} is {number}; it takes {', '.join(map(str, values))}"
    layout = _layout(node)
    if form.scales and layout not in form.scales:
        yield 2, f"it has a scale per {layout}; it takes one per {' or '.join(form.scales)}"
    for index in form.constant:
        if index < len(node.inputs) and not folded.holds(node.inputs[index]):
            yield 3, f"input {index} is not constant"
    if form.quantized_result and not all(map(_is_quantized, node.outputs[0].consumers())):
        yield 4, "what is computed from it is not quantized, so that it would be decoded in every run"


def _takes(allowed: tuple[str, ...], kind: str, widens: str) -> bool:
    return kind in allowed or (kind == widens and "float" in allowed)


def _layout(node: ir.Node) -> str:
    """What shares a scale of a QuantizeLinear or DequantizeLinear: the tensor, a channel or a block."""
    if operators.kind(node) != "quantizer" or len(node.inputs) < 2 or node.inputs[1] is None:
        return ""
    if node.attributes.get_int("block_size", 0):
        return "block"
    shape = node.inputs[1].shape
    if shape is None or len(shape) == 0 or shape == ir.Shape([1]):
        return "tensor"
    return "channel"


def _is_quantized(node: ir.Node) -> bool:
    """Whether all that ``node`` computes is quantized and used in no other way; a bias may be added before that."""
    users = node.successors()
    if len(users) == 1 and users[0].op_type == "Add" and node.op_type == "MatMul":
        return _is_quantized(users[0])
    return set(op_types(users)) == {"QuantizeLinear"}


def _expands(operator: str, opset: int, target: Target, *, has_kernel: bool) -> bool:
    """Whether the runtime writes an operator as others, by which ONNX defines it.

    It does so where a kernel is for other types, too; where there is none the table says whether it has all others.
    """
    if target.kernels and opset >= kernels.EXPANDED_FROM and not has_kernel:
        return opset in kernels.runtime(target.kernels).expanded.get(operator, ())
    return runtimes.is_function(operator, opset)
