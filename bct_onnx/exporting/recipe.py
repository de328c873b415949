"""How to export."""

from __future__ import annotations

import dataclasses

from bct_onnx.errors import UsageError
from bct_onnx.exporting.checkpoint import TASKS
from bct_onnx.exporting.exporters import EXPORTERS

CHOICES = {
    "exporter": ("auto", *EXPORTERS),
    "task": ("auto", *TASKS),
    "attention": ("default", "sdpa", "eager"),
    "dtype": ("fp32", "fp16"),
}
"""The values that the fields of a `Recipe` can have."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to export. The defaults suit a rewrite.

    Attributes:
        exporter: ``optimum`` (TorchScript, the most architectures), ``dynamo`` or ``legacy`` (torch.onnx.export with
            and without dynamo); ``auto`` is ``optimum``, or ``dynamo`` where optimum cannot.
        task: A key of `TASKS`; ``auto`` reads it from the checkpoint's architecture.
        opset: ONNX operator set; None leaves it to the exporter.
        attention: Implementation inside transformers, which decides the shape of the exported graph.
        dtype: Type of the weights, whatever type the checkpoint stores.
        cache: Decoders only: past keys and values as inputs and outputs.
    """

    exporter: str = "auto"
    task: str = "auto"
    opset: int | None = None
    attention: str = "default"
    dtype: str = "fp32"
    cache: bool = False

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(f"unknown {name} {getattr(self, name)!r}", fix=f"one of: {', '.join(choices)}")
