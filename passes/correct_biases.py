"""Move the biases of normalizations by what these are off on average."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.errors import UsageError
from bct_onnx.forms.biases import BIAS, Bias, biases
from bct_onnx.graph import before, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.known import initializer_nbytes
from bct_onnx.tasks.calibration import CalibrationData
from bct_onnx.tasks.mean_errors import Corrected, Texts, expected

LARGEST = 1 << 30
"""Bytes of float weights above which a model is not run: all of them are in memory then."""


@dataclasses.dataclass(frozen=True)
class CorrectBiases(Pass):
    """Move the biases of normalizations by what these are off on average.

    Why:
        Errors of rounding are no noise around zero: what they do to a channel is partly the same for every token, and
        adds up from layer to layer. A bias takes that back, and nothing more is stored or computed for it. It comes
        behind all that becomes codes, as weights, tables and activations do it together.

    Before/after:
        The graph stays as it is; the last operand of each ``LayerNormalization`` has other values.

    Method:
        The model before rounding and the model as it is now run on the same texts. In the latter the mean of each
        normalization over a batch is brought to what it was within the run, so that those further down see what those
        before have left. The mean of these moves over all batches is what biases are moved by.

    Declines:
        Models of more than 1 GiB, and those calibrated on random tokens or text of ours, whose means are not those of a
        user's: a classifier of film reviews lost 0.7 dB of what it makes of these. Biases that other nodes use as
        well. A model whose outputs do not get nearer on texts held back stays as it was.

    Options:
        samples: Sequences of calibrate's data, at most, and no more than have 8192 tokens together; every fifth is
            held back.

    Promise:
        Bounded: the error of the outputs on held-back texts does not grow.
    """

    name: ClassVar[str] = "correct-biases"
    stage: ClassVar[Stage] = Stage.CORRECT
    promise: ClassVar[str] = "bounded"
    needs_before: ClassVar[bool] = True

    samples: int = 512

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise UsageError(f"samples={self.samples} is not allowed", fix="use 2 or more: some are held back")

    def apply(self, model: ir.Model) -> Applied:
        """Give the biases of the main graph other values.

        Raises:
            UsageError: The data cannot be read.
            TargetError: ONNX Runtime cannot run the model.
        """
        name, teacher = model.graph.name or "graph", before.of(model)
        reason = _refusal(model, teacher)
        if reason or teacher is None:
            return Applied(model, (), [Declined(name, reason)])
        before.forget(model)
        own, declined = biases(model.graph, teacher.graph)
        texts = Texts.read(model, self.samples)
        if not own or texts is None:
            reason = "fewer than two texts to run it on" if own else "no normalization has a bias of its own"
            return Applied(model, (), [*declined, Declined(name, reason)])
        wanted = expected(teacher, own, texts.learned, outputs=False)
        judges = expected(teacher, own, texts.held_back, outputs=True)
        corrected = Corrected(model, own)
        moves = corrected.measure(wanted)
        start, after = corrected.error(judges, corrected.unmoved), corrected.error(judges, moves)
        note = f"on {texts.held_back_rows} held-back texts outputs keep {start.sqnr_db:.2f} -> {after.sqnr_db:.2f} dB"
        if not after.noise < start.noise:
            return Applied(model, (), [*declined, Declined(name, note)])
        return Applied(model, [_moved(bias, moves[bias.before]) for bias in own], declined, note=note)


def _refusal(model: ir.Model, teacher: ir.Model | None) -> str:
    """Why a model stays as it is; empty where it does not."""
    if teacher is None:
        return "nothing before it has stored a tensor in few bits"
    given = CalibrationData.of(model)
    if given.file is None or given.is_own:
        return f"calibrated on {'text of ours' if given.is_own else 'random tokens'}, whose means are not the user's"
    nbytes = initializer_nbytes(teacher.graph)
    if nbytes > LARGEST:
        return f"the model has {nbytes / 1e9:.1f} GB of weights; it is not run once more"
    return ""


def _moved(bias: Bias, move: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Site:
    """Give a node a bias of its own that is so much larger."""
    array = tensors.array(bias.tensor)
    edit = Edit(bias.node)
    moved = edit.constant(f"{bias.value.name}.corrected", (array.astype(np.float64) + move).astype(array.dtype))
    bias.node.replace_input_with(BIAS, moved)
    share = float(np.sqrt(np.mean(np.square(move))))
    return Site(bias.before, (bias.node.op_type,), f"moved by {share:.2g} on the root mean square")
