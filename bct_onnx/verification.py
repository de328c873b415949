"""Passes are held to what they promise: each on its own, or, on every run, those that are exact in rows.

A pass that is not exact may have a bound of its own (`Pass.least`), which every run holds it to as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import onnx
import onnx_ir as ir

from bct_onnx import exactness
from bct_onnx.base import EXACT, Pass
from bct_onnx.errors import BctError, GateError, TargetError
from bct_onnx.exactness import Side
from bct_onnx.graph.names import names_of
from bct_onnx.graph.save import embedded
from bct_onnx.reference import FAULT, Reference
from bct_onnx.runtime.parity import Parity


class Verification:
    """Follows a model through its passes. Call `after` behind each of them.

    Args:
        reference: The input model and the samples.
    """

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._before = None if reference.skipped else reference.itself
        self._digest = b""  # of the model that was verified last
        self._parity: Parity | None = None
        self.kept = False

    def before(self, graph_pass: Pass, model: ir.Model) -> None:
        """As `Promises.before`; nothing has to be known."""

    def finish(self, model: ir.Model) -> None:
        """As `Promises.finish`; all has been checked."""

    def after(self, graph_pass: Pass, model: ir.Model, changed: bool = True) -> Parity | None:
        """The outputs of ``model``, which ``graph_pass`` has just left, against the input model's.

        They are known where the model is byte for byte what was verified last.

        Raises:
            GateError: The pass moved an output further than it promised, or changed the shape of one.
            TargetError: The model is invalid, cannot be loaded or run, or gives NaN or infinity anew.
        """
        if self._before is None:
            return None
        reference, before = self._reference, self._before
        try:
            digest = self._check_valid(model)
            if digest == self._digest:
                return self._parity
            candidate = reference.opened(model)
            if reference.adapt(candidate):
                before = reference.side(before.model())
            after = reference.side(model.clone(), candidate)
        except onnx.checker.ValidationError as error:
            raise TargetError(
                f"after {graph_pass.name} the model is no valid ONNX", why=str(error), fix=FAULT
            ) from error
        except TargetError as error:
            raise TargetError(f"after {graph_pass.name} {_lower(error.what)}", why=error.why, fix=FAULT) from error
        try:
            finite = reference.against(after.outputs, before.outputs).finite
            held = finite and (graph_pass.promise == EXACT or graph_pass.least is not None)
            distance = moved(reference, before, after, graph_pass.least) if held else ""
        except GateError as error:
            raise GateError(f"{graph_pass.name} changed the outputs", why=error.why, fix=FAULT) from error
        if distance:
            promised = "to be exact" if graph_pass.least is None else f"{graph_pass.least:g} dB"
            why = f"{distance}, of those before it; the pass promises {promised}"
            raise GateError(f"{graph_pass.name} moved the outputs", why=why, fix=FAULT)
        if not finite:
            raise TargetError(f"{graph_pass.name} makes NaN or infinity of finite outputs", fix=FAULT)
        self._before, self._digest, self._parity = after, digest, reference.against(after.outputs)
        return self._parity

    def _check_valid(self, model: ir.Model) -> bytes:
        """Let ONNX look at a model, unless the input model is none to it either: without a shape of an output, say.

        Returns:
            A digest of the model as it was serialized.

        Raises:
            onnx.checker.ValidationError: A pass has made it invalid.
        """
        serialized = embedded(model).SerializeToString(deterministic=True)
        try:
            onnx.checker.check_model(serialized)
        except onnx.checker.ValidationError:
            if _is_valid(self._reference.fresh()):
                raise
        return hashlib.sha256(serialized).digest()


class Promises:
    """Holds passes to what they promise while they run, with one check for each row of those that are exact.

    The first row is compared with the input model, a later one with the model before it. The check waits until a pass
    that is not exact changes something: until then the check of the result says the same. Where a check fails, the
    passes are run again one by one to name the one that is wrong.
    """

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._done: list[Pass] = []
        self._row: list[Pass] = []  # exact passes that have changed something and were not checked yet
        self._start: ir.Model | None = None
        self._end: ir.Model | None = None
        self._bounded: ir.Model | None = None  # what a pass with a bound of its own gets
        self.kept = True  # whether nothing has changed the model but exact passes

    def before(self, graph_pass: Pass, model: ir.Model) -> None:
        """Tell that ``graph_pass`` will run on ``model``."""
        if self._reference.skipped:
            return
        self._bounded = model.clone() if graph_pass.least is not None else None
        if graph_pass.promise != EXACT and self._row and self._end is None:
            self._end = model.clone() if self._bounded is None else self._bounded
        elif graph_pass.promise == EXACT and not self._row and not self.kept:
            self._start = model.clone()

    def after(self, graph_pass: Pass, model: ir.Model, changed: bool) -> None:
        """Tell that ``graph_pass`` has run, and whether it changed anything.

        Raises:
            GateError: A pass before it promised to be exact and is not, or it has moved outputs beyond its own bound.
            TargetError: ONNX Runtime cannot load or run what such a pass made.
        """
        self._done.append(graph_pass)
        if not changed:
            return
        if graph_pass.promise == EXACT:
            self._row.append(graph_pass)
            self._end = None
            return
        if self._end is not None:
            self._hold(self._end, self._done[:-1])
        self.kept = False
        if self._bounded is not None and not self._reference.skipped:
            try:
                hold(self._reference, self._bounded, model, [graph_pass])
            except (GateError, TargetError) as error:
                raise culprit(self._reference, self._done) or error from error

    def finish(self, model: ir.Model) -> None:
        """Check the last row, unless the check of the result does it.

        Raises:
            GateError, TargetError: As `after`.
        """
        if self._row and not self.kept and not self._reference.skipped:
            self._hold(model, self._done)

    def _hold(self, model: ir.Model, passes: Sequence[Pass]) -> None:
        try:
            hold(self._reference, self._start, model, self._row)
        except (GateError, TargetError) as error:
            raise culprit(self._reference, passes) or error from error
        self._row, self._start, self._end = [], None, None


def hold(reference: Reference, before: ir.Model | None, model: ir.Model, passes: Sequence[Pass]) -> None:
    """Hold ``passes``, which made ``model`` of ``before`` (None: the input), to what they promise: to be exact, all of
    them, or one a bound of its own.

    Raises:
        GateError: Outputs moved further than rounding explains.
        TargetError: ONNX Runtime cannot load or run the model.
    """
    if reference.skipped:
        return
    # With codes fusions of the runtime round, which is no matter of passes.
    candidate = reference.opened(model, "disabled" if before else "all")
    reference.adapt(candidate)
    start = reference.itself
    if before is not None:
        start = reference.side(before, reference.opened(before, "disabled"))
    least = next((graph_pass.least for graph_pass in passes if graph_pass.promise != EXACT), None)
    if distance := moved(reference, start, reference.side(model, candidate), least):
        names = ", ".join(dict.fromkeys(names_of(passes)))
        problem = "passes that promise to be exact moved the outputs"
        if least is not None:
            problem = f"a pass that promises {least:g} dB moved the outputs further"
        raise GateError(problem, where=names, why=distance, fix=FAULT)


def moved(reference: Reference, before: Side, after: Side, least: float | None = None) -> str:
    """Which outputs of ``after`` are not those of ``before``, in words; empty where all are, up to rounding.

    ``least`` is the dB that they have to keep; None for what float rounding leaves.

    Raises:
        GateError: They have other shapes.
    """
    reference.against(after.outputs, before.outputs)
    bound = reference.bound if least is None else least
    far = exactness.moved(before, after, reference.feeds, reference.names, bound, reference.real)
    return "; ".join(f"output '{name}' keeps {db:.1f} dB, not {least:.0f}" for name, (db, least) in far.items())


def culprit(reference: Reference, passes: Iterable[Pass]) -> BctError | None:
    """Run ``passes`` again, each verified: what is wrong with the first that is; None where it shows in none alone."""
    model, verification = reference.fresh(), Verification(reference)
    try:
        for graph_pass in passes:
            graph_pass(model)
            verification.after(graph_pass, model)
    except (GateError, TargetError) as error:
        return error
    return None


def _is_valid(model: ir.Model) -> bool:
    try:
        onnx.checker.check_model(embedded(model))
    except onnx.checker.ValidationError:
        return False
    return True


def _lower(text: str) -> str:
    if text.startswith("ONNX"):
        return text
    return text[:1].lower() + text[1:]
