"""Ranges of values as a model gives them that has learned: those that were calibrated are of the model before."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import onnx_ir as ir

from bct_onnx.forms import measured
from bct_onnx.progress import told
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.observer import Observer
from bct_onnx.runtime.statistics import KEY, SCORES

AT_ONCE = 1 << 29
"""Bytes of values that one run may hand out."""


def measure(model: ir.Model, batches: Iterable[Feeds]) -> None:
    """Measure everything anew that was measured before; products of inputs are not, as all weights are stored.

    Raises:
        TargetError: ONNX Runtime cannot run the model.
    """
    values: dict[str, ir.Value] = {}
    attentions: dict[str, ir.Value] = {}
    for node in model.graph:
        for value in node.outputs:
            if KEY in value.meta:
                values[value.name or ""] = value
            if SCORES in value.meta and measured.gives_scores(node):
                attentions[value.name or ""] = value
    if not values:
        return
    whole = {name for name, value in values.items() if len(value.meta[KEY].minimum) == 1}
    observer = Observer(model, list(values.values()), whole=whole, attentions=list(attentions))
    for feeds in told(batches, 0):
        observer.see(feeds, at_once=AT_ONCE)
    for name, value in values.items():
        value.meta[KEY] = dataclasses.replace(observer.found[name], random=value.meta[KEY].random)
    for name, value in attentions.items():
        value.meta[SCORES] = dataclasses.replace(observer.scores[name], random=value.meta[SCORES].random)
