"""What a model whose padding was removed says of itself, so that others know which positions of its outputs count."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

KEY = "bct_onnx.padding"
"""Key in the metadata of a model."""


@dataclasses.dataclass(frozen=True)
class Removed:
    """Where outputs hold zeros.

    Attributes:
        mask: The input that tells real tokens from padding, ``[batch, sequence]``.
        hides: Whether it is true, or not 0, at padding.
        reads: Positions that the model reads by their numbers: results are exact where the mask keeps them.
        outputs: Those that have a row for each token, ``[batch, sequence, ...]``.
    """

    mask: str
    hides: bool
    outputs: tuple[str, ...]
    reads: tuple[int, ...] = ()

    def write(self, model: ir.Model) -> None:
        """Note it in the model's metadata."""
        model.metadata_props[KEY] = json.dumps(dataclasses.asdict(self))

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Removed | None:
        """What a model's metadata say; None where its padding was not removed."""
        text = metadata.get(KEY)
        if text is None:
            return None
        noted = json.loads(text)
        return cls(noted["mask"], noted["hides"], tuple(noted["outputs"]), tuple(noted["reads"]))

    @classmethod
    def in_session(cls, session: ort.InferenceSession) -> Removed | None:
        """The same of the model that a session runs."""
        return cls.of(session.get_modelmeta().custom_metadata_map)

    def real(self, sample: Sequence[Any], feeds: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
        """The outputs on one sample, those that have tokens without padding: ``[real tokens, ...]``."""
        mask = np.asarray(feeds[self.mask]).astype(np.bool_)
        kept = ~mask if self.hides else mask
        return [
            output[kept] if name in self.outputs and np.shape(output)[:2] == kept.shape else output
            for output, name in zip(sample, names, strict=True)
        ]
