"""What a rewrite refuses: a model that is quantized already, and a result that its target does not take."""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx import registry, targets
from bct_onnx.course import quantizes
from bct_onnx.errors import InputModelError, TargetError
from bct_onnx.graph import contrib, operators, runtimes
from bct_onnx.graph.known import open_dims
from bct_onnx.graph.names import names_of
from bct_onnx.graph.provenance import PASS
from bct_onnx.pipeline import Pipeline
from bct_onnx.registry import complete
from bct_onnx.stamps import PIPELINE


def refuse_quantized(model: ir.Model, passes: Pipeline) -> None:
    """Refuse to quantize what is quantized.

    Raises:
        InputModelError: The model went through this tool or another quantizer.
    """
    if not quantizes(passes):
        return
    by = f"bct-onnx with {model.metadata_props[PIPELINE]}" if PIPELINE in model.metadata_props else ""
    quantized = next((node for node in model.graph.all_nodes() if operators.kind(node) in operators.QUANTIZED), None)
    if by or quantized is not None:
        raise InputModelError(
            "the model is already quantized",
            where=f"node {quantized.name or quantized.op_type} ({quantized.op_type})"
            if quantized is not None
            else model.graph.name or "",
            why=by or "what is left of it in float would lose accuracy twice; a part is enough to refuse the whole",
            fix="start from the float export; '--preset lift' fuses without quantizing",
        )


def judged(
    model: ir.Model, target: str, passes: Pipeline, copy: ir.Model | None = None
) -> tuple[targets.Legality, targets.Products]:
    """What the target takes of the result, and what its integer products assume.

    ``copy`` is the model as `bct_onnx.graph.runtimes.expanded` gives it, where it is at hand.

    Raises:
        TargetError: It takes some node neither itself nor through the CPU provider.
    """
    legality = targets.check(model, targets.find(target), copy)
    if legality.illegal and targets.find(target).runtime:
        raise _too_old(model, target, legality.illegal[0])
    if legality.illegal:
        first, others = legality.illegal[0], len(legality.illegal) - 1
        maker = _maker(model, first.node)
        origin = {None: "", "": "; the input model has it"}.get(maker, f"; {maker} made the node")
        raise TargetError(
            f"target {target} does not take {first.operator}" + (f", and {others} nodes more" if others else ""),
            where=first.node,
            why=first.why + origin,
            fix=f"'bct-onnx list {target}' shows what it takes; "
            + _way_out(model, first.operator, target, passes if maker else None),
        )
    return legality, targets.products(model)


def _maker(model: ir.Model, name: str) -> str | None:
    """The pass that has made the node of a name, empty for the input model's own; None where no node is called so: the
    opset and the sizes of inputs are refused as well."""
    for node in model.graph.all_nodes():
        if node.name == name:
            return node.metadata_props.get(PASS, "")
    return None


def _too_old(model: ir.Model, target: str, first: targets.Refused) -> TargetError:
    """That the oldest runtime asked for does not run the result, and which does."""
    lowest, reason = runtimes.lowest(model), f"{first.operator}: {first.why}"
    return TargetError(
        f"ONNX Runtime {targets.find(target).runtime} cannot run the result",
        where=first.node,
        why=reason,
        fix="no version known here runs it" if lowest is None else f"--min-runtime {lowest.version} is the lowest",
    )


def _way_out(model: ir.Model, operator: str, target: str, passes: Pipeline | None) -> str:
    """What to do about an operator that a target does not take: nothing that was just done, and other passes only where
    ``passes`` have made it."""
    if operator.startswith(f"{contrib.MICROSOFT}::"):
        return (
            f"the operator is ONNX Runtime's own: start from the export before its optimizer, or use {targets.DEFAULT}"
        )
    free: list[str] = []
    for value in model.graph.inputs:
        free += open_dims(value.shape)
    if operator == "input" and free:
        dims = ", ".join(f"'{name}=SIZE'" for name in dict.fromkeys(free))
        return (
            f"a recipe (--recipe FILE.toml) gives sizes: [options.fix-shapes] dims = ['*batch*=1', '*seq*=128', {dims}]"
        )
    preset = registry.default_preset(target)
    if passes is not None and not set(names_of(complete(preset, target))) <= set(names_of(passes)):
        return f"try --preset {preset}"
    standard = [name for name in targets.names() if targets.find(name).standard]
    for other in (targets.DEFAULT, *standard):
        if other != target and not targets.check(model, targets.find(other)).illegal:
            return f"--target {other} takes the model"
    return f"no target of these takes {operator} as it is here: leave it out of the export"
