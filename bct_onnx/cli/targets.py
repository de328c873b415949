"""``bct-onnx targets``: what each runtime takes, and whether it takes a model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bct_onnx.cli import options

if TYPE_CHECKING:
    import onnx_ir as ir

    from bct_onnx.targets import Form, Target

_MOST = 20  # refused nodes that are printed


def targets(
    name: Annotated[str | None, typer.Argument(metavar="[TARGET]", help="A target to show in full.")] = None,
    *,
    check: Annotated[
        Path | None,
        typer.Option(metavar="MODEL.onnx", help="List what TARGET does not take of a model; exits with 4 if it must."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """List the targets, show what one takes and fuses, or check a model against it.

    --check also looks at integer products: int8 weights beyond 64 saturate on CPUs without VNNI.
    """
    from bct_onnx.errors import UsageError
    from bct_onnx.graph.load import load
    from bct_onnx.targets import find

    if name is None:
        if check is not None:
            raise UsageError("--check needs a target", fix="bct-onnx targets ort-cpu --check MODEL.onnx")
        _list(as_json)
    elif check is None:
        _show(find(name), as_json)
    else:
        _check(find(name), load(check), check, as_json)


def _list(as_json: bool) -> None:
    from bct_onnx.registry import TARGETS, default_preset
    from bct_onnx.targets import find

    if as_json:
        _dump([_figures(find(name)) for name in TARGETS])
        return
    for name in TARGETS:
        one = find(name)
        print(f"{name:<10} {one.about}\n{'':<10} {one.provider}, preset {default_preset(name)}; {_takes(one)}")


def _takes(one: Target) -> str:
    shapes = ", fixed shapes only" if one.fixed_shapes else ""
    count = "standard operators" if one.standard else f"{len(one.accepts)} operators"
    return f"takes {count} up to opset {one.opset}{shapes}"


def _show(one: Target, as_json: bool) -> None:
    from bct_onnx import registry

    if as_json:
        _dump(_figures(one))
        return
    print(f"{one.name}: {one.about}\n")
    print(f"  provider   {one.provider}\n  preset     {registry.default_preset(one.name)}")
    print(f"  appends    {registry.lowering(one.name)}")
    print(f"  takes      {_takes(one).removeprefix('takes ')}")
    kept = "all operators" if "*" in one.must else " ".join(sorted(one.must))
    print(f"  must take  {kept}; the rest may fall back to the CPU provider")
    if one.caution:
        print(f"  caution    {one.caution}")
    for fusion in one.fuses:
        print(f"  fuses      {fusion.pattern}\n             into {fusion.into}")
    for source in one.sources:
        print(f"  source     {source}")
    print("\naccepts" if one.accepts else "")
    for operator, forms in sorted(one.accepts.items()):
        print("\n".join(f"  {operator:<44} {text}" for text in dict.fromkeys(map(_form, forms))))


def _form(form: Form) -> str:
    parts = [f"{variable}: {' '.join(types)}" for variable, types in form.types.items()]
    parts += [f"{name} {' '.join(map(str, values))}" for name, values in form.attributes.items()]
    parts += [f"constant inputs {' '.join(map(str, form.constant))}"] if form.constant else []
    parts += [f"a scale per {' or '.join(form.scales)}"] if form.scales else []
    parts += ["before operators whose result is quantized"] if form.quantized_result else []
    return "; ".join(parts)


def _check(one: Target, model: ir.Model, path: Path, as_json: bool) -> None:
    from bct_onnx.cli.tables import int8_line, target_line
    from bct_onnx.errors import TargetError
    from bct_onnx.targets import check, products

    legality, found = check(model, one), products(model)
    if as_json:
        _dump({"model": str(path), **legality.as_dict(), "int8_products": found.as_dict()})
    else:
        print(f"{path}\n  target     {target_line(legality)}")
        if found.said:
            print(f"  {'warning' if found.wide else 'int8':<10} {int8_line(found)}")
        for node, largest in found.wide[:_MOST]:
            print(f"             {node}: weights up to {largest}")
        for refused in legality.refused[:_MOST]:
            fate = "on the CPU" if refused.falls_back else "not taken"
            print(f"  {fate:<10} {refused.node} ({refused.operator}): {refused.why}")
        if len(legality.refused) > _MOST:
            print(f"             and {len(legality.refused) - _MOST} more (--json)")
    if legality.illegal:
        first = legality.illegal[0]
        raise TargetError(
            f"target {one.name} does not take {len(legality.illegal)} nodes of the model",
            where=f"{path}: {first.node} ({first.operator})",
            why=first.why,
            fix=f"bct-onnx rewrite MODEL -o OUT --target {one.name}, from the float export",
        )


def _figures(one: Target) -> dict[str, Any]:
    from bct_onnx import registry

    forms = {operator: sorted({_form(form) for form in forms}) for operator, forms in sorted(one.accepts.items())}
    return {
        "name": one.name,
        "about": one.about,
        "caution": one.caution,
        "provider": one.provider,
        "preset": registry.default_preset(one.name),
        "passes": str(registry.lowering(one.name)),
        "opset": one.opset,
        "fixed_shapes": one.fixed_shapes,
        "must": sorted(one.must),
        "fuses": [{"pattern": fusion.pattern, "into": fusion.into} for fusion in one.fuses],
        "sources": list(one.sources),
        "accepts": forms,
    }


def _dump(figures: Any) -> None:
    json.dump(figures, sys.stdout, indent=2)
    print()
