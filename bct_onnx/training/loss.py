"""How far a student is from its teacher.

    KL(teacher || student) of logits + half of their normalized error                          what scores are read from
    normalized error of other outputs, and of their mean over tokens at unit length             embeddings
    + mean over layers of the normalized error of hidden states                                 what leads there

The normalized error of x against y is ``sum (x - y)² / sum y²``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from bct_onnx.runtime.feeds import Feeds
from bct_onnx.training.region import Region

Tensor = Any


def of_outputs(region: Region, student: Mapping[str, Tensor], expected: Feeds) -> Tensor:
    """The error of the outputs alone, a scalar: what held-back samples judge by."""
    total = torch.zeros(())
    for name in region.outputs:
        result, wanted = student[name], torch.from_numpy(expected[name]).float()
        if name in region.logits and result.shape[-1] > 1:
            total = total + _divergence(result, wanted) + 0.5 * normalized(result, wanted)
        else:
            total = total + normalized(result, wanted)
            if result.ndim == 3:
                total = total + normalized(_pooled(result), _pooled(wanted))
    return total / len(region.outputs)


def of_hidden(region: Region, student: Mapping[str, Tensor], expected: Feeds) -> Tensor:
    """The error of the hidden states, a scalar; zero for a model without normalizations."""
    total = torch.zeros(())
    for name in region.hidden:
        total = total + normalized(student[name], torch.from_numpy(expected[name]).float())
    return total / max(1, len(region.hidden))


def normalized(result: Tensor, wanted: Tensor) -> Tensor:
    """Squared error over squared signal."""
    return (result - wanted).square().sum() / wanted.square().sum().clamp_min(1e-12)


def _divergence(result: Tensor, wanted: Tensor) -> Tensor:
    """Mean KL divergence over all positions, in nats."""
    width = wanted.shape[-1]
    student, teacher = (functional.log_softmax(each.reshape(-1, width), dim=-1) for each in (result, wanted))
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _pooled(states: Tensor) -> Tensor:
    return functional.normalize(states.mean(dim=1), dim=-1)
