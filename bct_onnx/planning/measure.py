"""Measure a model for plans, or look up what was measured before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bct_onnx.pipeline import Pipeline
from bct_onnx.planning import cache
from bct_onnx.planning.bench import Bench
from bct_onnx.planning.measured import Item, Measured
from bct_onnx.planning.stored import prepare
from bct_onnx.progress import Progress


def measure(
    source: Path, passes: Pipeline, progress: Progress, *, folder: Path | None = None, row_ranges: bool = True
) -> Measured:
    """Measure a model, or look up what was measured before.

    Args:
        source: The float model.
        passes: All passes to run, the target's too.
        progress: Told what is being done.
        folder: Of the cache; None keeps nothing.
        row_ranges: Try ranges of rows of tables.

    Raises:
        InputModelError: The model cannot be used, or is quantized already.
        UsageError: The calibration data cannot be read or used.
        GateError: No tensor of the model is quantized by these passes.
        TargetError: ONNX Runtime cannot run the model.
    """
    progress("looking for measurements", 0, 0)
    entry = cache.Entry(folder, cache.key(source, passes, row_ranges))
    known = {one.name: one for one in _items(entry.content)}
    try:
        whole = entry.content["whole"]
        return Measured(
            tuple(known[name] for name in whole["names"]),
            int(whole["fixed_bits"]),
            int(whole["parameters"]),
            str(whole["unit"]),
            str(whole["source"]),
        )
    except (KeyError, TypeError, ValueError):
        pass  # nothing is known, or not everything
    prepared = prepare(source, passes, progress)
    bench = Bench(prepared, passes, row_ranges)
    items: list[Item] = []
    for number, tensor in enumerate(prepared.tensors):
        progress(f"measuring {tensor.name[-32:]}", number, len(prepared.tensors))
        items.append(known.get(tensor.name) or bench.item(tensor))
        entry.content["items"] = [one.as_dict() for one in items]
        entry.write()
    found = Measured(tuple(items), prepared.fixed_bits, prepared.parameters, bench.outputs.unit, bench.data.source)
    entry.content["whole"] = {"names": [one.name for one in items]} | {
        name: getattr(found, name) for name in ("fixed_bits", "parameters", "unit", "source")
    }
    entry.write()
    return found


def _items(content: Mapping[str, Any]) -> Iterator[Item]:
    """The tensors of a cache's entry, as far as they can be read."""
    found = content.get("items", ())
    for one in found if isinstance(found, list) else ():
        try:
            yield Item.of(one)
        except (KeyError, TypeError, ValueError):
            continue
