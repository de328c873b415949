"""Train what is stored, by the same model before rounding."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.course import Course
from bct_onnx.errors import UsageError
from bct_onnx.graph import before
from bct_onnx.graph.inventory import TRAINED
from bct_onnx.tasks.extras import extra
from bct_onnx.training import ranges
from bct_onnx.training.reading import Data, read
from bct_onnx.training.region import Region

MEASURED = 1 << 15
"""Numbers in the largest input of all batches on which ranges are measured anew: tokens, as a rule."""


@dataclasses.dataclass(frozen=True)
class Distill(Pass):
    """Let codes, scales, norms and biases learn what rounding has lost; no labels, and no training code of the model.

    Why:
        At 2 bits a solver that looks at one matrix at a time leaves half of what can be had. The model before rounding
        says for any text what the outputs and hidden states shall be, so that all tensors can make up for each other.

    Before/after:
        The graph stays as it is; constants of the same types and shapes have other values.

    Declines:
        Models with nothing stored in fewer than 8 bits, with operators that torch is not told of, and stored tensors
        with a float scale for each block. A run that does not beat its start on held-back samples returns the start.

    Options:
        steps: Updates; 0 takes as many as there are samples for, from 100 to 400, and twice as many where layers have
            gone or weights have become thin.
        batch: Sequences for each of them.
        rate: Learning rate of codes, in steps of rounding: 0.03 destroys what 0.01 gains.
        samples: Sequences of calibrate's data to learn from, at most; every eighth is held back to judge by. With fewer
            than 4,000 a run learns them by heart sooner than what they show, and more are spliced of two of them each.
        sequence: Tokens in each, at most; of a decoder's running text twice as many, in half as large a batch.
        seed: Of the order of the batches, and of random tokens where there is no data.
        interrupted: What Ctrl-C does: stop ends the rewrite, and nothing is written; keep goes on with the best so far.

    While it runs, what it has got so far lies in a file beside the output, ``OUT.unfinished``, from which ``rewrite
    --resume`` goes on. The result says in its metadata what it was trained on.

    Promise:
        Bounded: the error of the outputs on held-back samples does not grow.
    """

    name: ClassVar[str] = "distill"
    stage: ClassVar[Stage] = Stage.TRAIN
    promise: ClassVar[str] = "bounded"
    needs_before: ClassVar[bool] = True

    steps: int = 0
    batch: int = 32
    rate: float = 0.01
    samples: int = 8192
    sequence: int = 64
    seed: int = 0
    interrupted: Literal["stop", "keep"] = "stop"

    def __post_init__(self) -> None:
        if min(self.steps, self.seed) < 0 or min(self.batch, self.samples, self.sequence) < 1 or not self.rate > 0:
            raise UsageError(f"{self} is not allowed", fix="use positive numbers; steps=0 chooses")

    def apply(self, model: ir.Model) -> Applied:
        """Train the stored tensors of the main graph.

        Raises:
            UsageError: The extra ``train`` is not installed, or the data cannot be read.
            TargetError: ONNX Runtime cannot run the model.
        """
        name, teacher = model.graph.name or "graph", before.of(model)
        if teacher is None:
            return Applied(model, (), [Declined(name, "nothing before it has stored a tensor in few bits")])
        region = Region.of(model)
        distilling = extra("bct_onnx.training.distilling", of="train")  # needs torch, which no other command imports
        if reason := region.refusal(distilling.OPERATORS):
            return Applied(model, (), [Declined(name, reason)])
        data = read(teacher, self.samples, self.sequence, self.batch, self.seed)
        steps = self._steps(data, is_rebuilt=before.is_rebuilt(model))
        distillation = distilling.Distillation(model, teacher, region, data.samples, data.held_back)
        kept, course = (self.interrupted == "keep"), Course.of(model)
        settings = (steps, data.batch, self.rate, self.seed, kept, course.unfinished, course.resumes)
        outcome = distillation.run(distilling.Course(*settings))
        before.forget(model)
        error_before = f"error on {data.held_back_rows} held-back sequences {outcome.before:.3g}"
        note = f"{data.note}; {error_before} -> {outcome.after:.3g} after {outcome.step} of {steps} steps"
        if outcome.resumed:
            note += f", the first {outcome.resumed} of them by an earlier run"
        if not outcome.step:
            return Applied(model, (), [Declined(name, f"{steps} steps did not lower the {error_before}")], note=note)
        model.metadata_props[TRAINED] = f"{note}; seed {self.seed}, texts {data.digest}"
        sites: list[Site] = []
        for codes, learned in distillation.student.learned.items():
            sites.append(Site(codes.removesuffix(".codes"), (), f"{learned.changed():.1%} of its codes are others"))
        distillation.student.write()
        ranges.measure(model, data.some(MEASURED))
        return Applied(model, sites, note=note)

    def _steps(self, data: Data, *, is_rebuilt: bool) -> int:
        """Updates for so many sequences."""
        steps = self.steps or min(400, max(100, data.rows // data.batch))
        if is_rebuilt and not self.steps:
            return 2 * steps
        return steps
