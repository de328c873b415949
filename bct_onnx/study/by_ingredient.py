"""What each replacement alone costs: one candidate per ingredient, all else as the model came."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bct_onnx import registry
from bct_onnx.errors import GateError, UsageError, nearest
from bct_onnx.pipeline import Pipeline, split
from bct_onnx.study.candidates import Candidate, Ran, Study
from bct_onnx.study.result import Row, Sensitivity, row_of


def chosen(names: Sequence[str]) -> dict[str, Pipeline]:
    """The ingredients by these names in the registry's order; all of them for no names.

    Raises:
        UsageError: There is no such ingredient.
    """
    for name in names:
        if name not in registry.INGREDIENTS:
            fix = nearest(name, registry.INGREDIENTS, "ingredients")
            raise UsageError(f"unknown ingredient '{name}'", where="--only", fix=fix)
    selected = [name for name in registry.INGREDIENTS if not names or name in names]
    return {name: registry.parse(registry.INGREDIENTS[name]) for name in selected}


def by_ingredient(study: Study, ingredients: Mapping[str, Pipeline]) -> Sensitivity:
    """Measure the model with each ingredient alone.

    The places of an ingredient are those of its last pass that is not exact: what goes before prepares them. A whole
    preset counts the places of all its passes.

    Args:
        study: The model and how to measure.
        ingredients: Pipelines by name, without the target's lowering.

    Raises:
        GateError: None of them has a place in this model.
    """
    left_out: list[tuple[str, str]] = []
    rows: list[Row] = []
    for candidate, figures in study.measured(_built(study, ingredients, left_out)):
        rows.append(row_of(candidate, figures, _at_work(candidate)))
    if not rows:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out)
        raise GateError("no ingredient changes anything", where=str(study.source), why=why)
    return Sensitivity("ingredient", study.target, tuple(rows), tuple(left_out), study.comparison)


def _built(study: Study, ingredients: Mapping[str, Pipeline], left_out: list[tuple[str, str]]) -> Iterator[Candidate]:
    for number, (name, pipeline) in enumerate(ingredients.items()):
        study.progress(name, number, len(ingredients))
        exact, rest = split(study.without_lowering(pipeline))
        candidate = study.build(name, study.prepared(exact), rest)
        at_work = _at_work(candidate)
        if at_work and not any(ran.sites for ran in at_work):
            reasons: dict[str, None] = {}
            for ran in candidate.ran:
                reasons |= dict.fromkeys(declined.reason for declined in ran.declined)
            left_out.append((name, "; ".join(reasons) or "this model has no place for it"))
        else:
            yield candidate


def _at_work(candidate: Candidate) -> Sequence[Ran]:
    """The passes whose places count."""
    lossy = [ran for ran in candidate.ran if ran.is_lossy]
    is_whole = candidate.name in registry.PRESETS or candidate.name not in registry.INGREDIENTS
    return lossy if is_whole else lossy[-1:]
