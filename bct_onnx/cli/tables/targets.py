"""Targets, and what they take of a model, as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bct_onnx.cli.tables.report import int8_line, target_line

if TYPE_CHECKING:
    from bct_onnx.targets import Form, Legality, Products, Target

_MOST = 20  # refused nodes that are printed


def target_page(target: Target, preset: str, lowering: str) -> Iterator[str]:
    """All that is known of a target, with the preset it gets by default and the passes it appends."""
    yield f"{target.name}: {target.about}\n"
    yield f"  provider   {target.provider}"
    yield f"  preset     {preset}"
    yield f"  appends    {lowering}"
    yield f"  takes      {taken(target)}"
    kept = "all operators" if "*" in target.must else " ".join(sorted(target.must))
    yield f"  must take  {kept}; the rest may fall back to the CPU provider"
    if target.caution:
        yield f"  caution    {target.caution}"
    for fusion in target.fuses:
        yield f"  fuses      {fusion.pattern}\n             into {fusion.into}"
    for source in target.sources:
        yield f"  source     {source}"
    yield "\naccepts" if target.accepts else ""
    for operator, forms in sorted(target.accepts.items()):
        for text in dict.fromkeys(map(form_text, forms)):
            yield f"  {operator:<44} {text}"


def taken(target: Target) -> str:
    """How much of ONNX a target takes, in a few words."""
    shapes = ", fixed shapes only" if target.fixed_shapes else ""
    count = "standard operators" if target.standard else f"{len(target.accepts)} operators"
    return f"{count} up to opset {target.opset}{shapes}"


def form_text(form: Form) -> str:
    """One form in which a target takes an operator."""
    parts = [f"{variable}: {' '.join(types)}" for variable, types in form.types.items()]
    parts += [f"{name} {' '.join(map(str, values))}" for name, values in form.attributes.items()]
    if form.constant:
        parts.append(f"constant inputs {' '.join(map(str, form.constant))}")
    if form.scales:
        parts.append(f"a scale per {' or '.join(form.scales)}")
    if form.quantized_result:
        parts.append("before operators whose result is quantized")
    return "; ".join(parts)


def check_lines(legality: Legality, products: Products) -> list[str]:
    """What a target does not take of a model, and which integer products may saturate."""
    lines = [f"  target     {target_line(legality)}"]
    if products.said:
        lines.append(f"  {'warning' if products.wide else 'int8':<10} {int8_line(products)}")
    lines += [f"             {node}: weights up to {largest}" for node, largest in products.wide[:_MOST]]
    for refused in legality.refused[:_MOST]:
        fate = "on the CPU" if refused.falls_back else "not taken"
        lines.append(f"  {fate:<10} {refused.node} ({refused.operator}): {refused.why}")
    if len(legality.refused) > _MOST:
        lines.append(f"             and {len(legality.refused) - _MOST} more (--json)")
    return lines
