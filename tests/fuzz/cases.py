"""One case: a model, what is done to it, and the pipeline it goes through; all drawn from two numbers."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
from onnx.checker import ValidationError

from bct_onnx import registry
from tests.fuzz import models, wrong_headers, wrong_nodes, wrong_tensors
from tests.fuzz.mutations import MUTATIONS, Impossible, Rng, chance, pick

FILES = (wrong_headers, wrong_nodes, wrong_tensors)
"""They register their mutations when they are imported."""

PRESETS = ("lift", "lift", "w4a8-nearest", "fast", "bct-plus", "bct")
DAMAGE = "bytes"
DATA = 1 << 16
"""Bytes of the data file beside every model."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A reproducible input.

    Attributes:
        seed: Of the whole run.
        number: Which case of it.
        kept: Which of its mutations are applied, to find out which ones matter; None for all.
    """

    seed: int
    number: int
    kept: tuple[int, ...] | None = None

    def start(self) -> models.Start:
        """The valid model it starts from."""
        return pick(models.starts(), self._rng(0))

    def mutations(self) -> tuple[str, ...]:
        """What is done to it: nothing in one case of 20, damaged bytes (last) in one of 8."""
        rng = self._rng(1)
        count = 0 if chance(rng, 0.05) else int(rng.integers(1, 4))
        chosen = [pick(list(MUTATIONS), rng) for _ in range(count)]
        if count and chance(rng, 0.12):
            chosen[-1] = DAMAGE
        return tuple(name for i, name in enumerate(chosen) if self.kept is None or i in self.kept)

    def pipeline(self) -> tuple[str, str]:
        """Passes and target: a preset, what the start was made for, or one pass, with or without those that lift."""
        rng, (_, made_for) = self._rng(2), self.start()
        target = pick(("ort-cpu", "ort-cpu", "portable"), rng)
        if made_for and chance(rng, 0.4):
            return pick(made_for, rng), target
        if chance(rng, 0.25):
            alone = pick(list(registry.PASSES), rng)
            return alone if chance(rng) else f"lift,calibrate,{alone}", target
        return pick(PRESETS, rng), target

    def write(self, folder: Path) -> Path:
        """Write the model into ``folder``, with a file of data beside it."""
        name, _ = self.start()
        proto = models.model(name)
        whole = dataclasses.replace(self, kept=None).mutations()
        for i, mutation in enumerate(whole):
            if mutation != DAMAGE and (self.kept is None or i in self.kept):
                with contextlib.suppress(Impossible, ValueError, TypeError, ValidationError):  # what earlier ones left
                    MUTATIONS[mutation](proto, self._rng(3 + i))
        data = proto.SerializeToString()
        if DAMAGE in self.mutations():
            data = _damaged(data, self._rng(99))
        path = folder / "model.onnx"
        path.write_bytes(data)
        (folder / "data.bin").write_bytes(np.random.default_rng(0).standard_normal(DATA // 4, np.float32).tobytes())
        return path

    def __str__(self) -> str:
        passes, target = self.pipeline()
        return f"{self.start()[0]}, {' + '.join(self.mutations()) or 'as it is'}, {passes} for {target}"

    def _rng(self, what: int) -> Rng:
        return np.random.default_rng([self.seed, self.number, what])


def _damaged(data: bytes, rng: Rng) -> bytes:
    """A few bytes changed, removed, added or repeated; half of the places near the front, where the nodes are."""
    damaged = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        end = max(1, len(damaged) if chance(rng) else min(len(damaged), 2000))  # all of it may be gone
        start, size = int(rng.integers(end)), int(rng.integers(4))
        if chance(rng, 0.1):
            damaged[start:start] = damaged[start : start + int(rng.integers(1, 500))]
        elif chance(rng, 0.1):
            del damaged[start:]
        else:
            damaged[start : start + size] = rng.bytes(int(rng.integers(4)))
    return bytes(damaged) or b"?"
