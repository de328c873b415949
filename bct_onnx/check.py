"""Check a result against its input in ONNX Runtime: it loads, its outputs are close, and how fast it is."""

from __future__ import annotations

import gzip
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime as ort

from bct_onnx.base import EXACT, Pass
from bct_onnx.errors import GateError, TargetError, UsageError
from bct_onnx.graph import functions, widen
from bct_onnx.graph.save import embedded
from bct_onnx.report import Timing
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.inputs import Input, inputs_of
from bct_onnx.runtime.latency import measure
from bct_onnx.runtime.parity import Parity, compare_outputs
from bct_onnx.runtime.session import run, session
from bct_onnx.runtime.understanding import Sampler

LIMIT = 1 << 30
"""Models with more bytes of weights than this are not run, unless asked for: that would take several times their
size."""

EXACT_DB = 60.0
"""A pass that promises to be exact may move outputs by this little: float rounding, enlarged by later layers."""

EXACT_IN_CODES_DB = 20.0
"""The same once activations are int8: a value on the edge between two codes may take the other one, in every layer."""

SHAPES = ((2, 24), (1, 7), (3, 48))
"""Batch and sequence of the samples that outputs are compared on; shorter rows are padded."""

SINGLE = ((1, 24), (1, 7), (1, 48))
"""The same where the input model runs no more than one text at a time."""

SOURCE = "seeded random inputs"

SEED = 1 << 20
"""Of the first sample; calibration counts from 0, so that what is checked has calibrated nothing."""

TIMED = (1, 128)
_ROUNDS = 5
_QUANTIZERS = ("QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul")


class Check:
    """The input model as the reference for what is made of it.

    Args:
        source: The input file, or None for a model in memory.
        model: The input model, before any pass.
        wanted: True runs it whatever its size, False never, None if its weights are below `LIMIT`.
        settings: Those of the sessions in which results are judged, as the target has them.

    Attributes:
        skipped: Why nothing is compared; empty where it is.
        sampler: Makes the samples, and knows whether outputs depend on them (``meaningful``); where it is not skipped.
    """

    def __init__(
        self, source: Path | None, model: ir.Model, wanted: bool | None, settings: Mapping[str, str] | None = None
    ) -> None:
        self.settings = settings or {}
        nbytes = sum(
            value.const_value.nbytes
            for graph in (model.graph, *model.graph.subgraphs())
            for value in graph.initializers.values()
            if value.const_value is not None
        )
        self.skipped = ""
        if wanted is False:
            self.skipped = "switched off"
        elif wanted is None and nbytes > LIMIT:
            self.skipped = f"the model has {nbytes / 1e9:.1f} GB of weights; --check runs it all the same"
        self._session: ort.InferenceSession | None = None
        self._outputs: list[list[Any]] = []
        self.loads, self.load_seconds = False, 0.0
        if self.skipped:
            return
        if widen.is_narrow(model):  # as normalize does: ONNX Runtime has few operators of bfloat16 on CPUs
            source, model = None, _widened(model)
        reference = source if source is not None else embedded(model).SerializeToString()
        start = time.perf_counter()
        self._session = session(reference)
        self.loads, self.load_seconds = True, time.perf_counter() - start
        try:
            self.sampler = Sampler(model, self._session)
            self._inputs, self._fixed = inputs_of(self._session), False
            self._longest = self.sampler.longest(TIMED[1])
            try:
                self._sample(SHAPES)
            except TargetError:  # some exports take one text at a time only
                self._sample(SINGLE)
        except TargetError as error:
            self.skipped = f"the input model does not run on random inputs: {error.why}"
            return
        self._previous = self._outputs

    def _sample(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Take samples of these shapes, and the input model's outputs."""
        assert self._session is not None
        self._shapes = shapes
        self.feeds = [self._feeds(*shape, seed) for seed, shape in enumerate(shapes)]
        self._outputs = [run(self._session, feeds) for feeds in self.feeds]

    def parity(self, candidate: ort.InferenceSession) -> Parity:
        """Outputs of ``candidate`` against the input model's."""
        assert self._session is not None
        self._adapt(candidate)
        names = [output.name for output in self._session.get_outputs()]
        outputs = (run(candidate, feeds) for feeds in self.feeds)
        try:
            return compare_outputs(self._outputs, outputs, names=names, source=self._source)
        except UsageError as error:  # for `compare`, which is given any two models
            fix = "find the pass with --verify-each; does the input model declare its outputs as they are?"
            raise GateError("the rewrite changed the outputs", why=f"{error.what}; {error.why}", fix=fix) from error

    def after(self, one: Pass, model: ir.Model) -> Parity | None:
        """Verify the model after pass ``one``: ONNX checker, ONNX Runtime, outputs.

        Raises:
            GateError: The pass promised to be exact and is not.
            TargetError: The model is invalid or cannot be loaded.
        """
        if self.skipped:
            return None
        proto = embedded(model)
        try:
            onnx.checker.check_model(proto)
        except onnx.checker.ValidationError as error:
            raise TargetError(f"after {one.name} the model is no valid ONNX", why=str(error)) from error
        candidate = session(model, settings=self.settings)
        if self._adapt(candidate):
            self._previous = [run(candidate, feeds) for feeds in self.feeds]
        outputs = [run(candidate, feeds) for feeds in self.feeds]
        moved = compare_outputs(self._previous, outputs)
        limit = EXACT_IN_CODES_DB if any(node.op_type in _QUANTIZERS for node in model.graph.all_nodes()) else EXACT_DB
        if not moved.finite or (one.promise == EXACT and moved.sqnr_db < limit):
            raise GateError(
                f"{one.name} moved the outputs",
                why=f"SQNR {moved.sqnr_db:.1f} dB against the model before it; it promises to be {one.promise}",
                fix="leave that pass out, and please report it with the model",
            )
        self._previous = outputs
        return compare_outputs(self._outputs, outputs, source=self._source)

    @property
    def _source(self) -> str:
        single = " of one text, as the input model runs no more" if self._shapes is SINGLE else ""
        return f"{SOURCE}{single}"

    def timings(self, candidate: ort.InferenceSession) -> tuple[Timing, ...]:
        """Both models on one shape, one thread, interleaved."""
        assert self._session is not None
        batch, sequence = TIMED[0], min(TIMED[1], self._longest)
        feeds = self._feeds(batch, sequence, 0)
        if self._fixed:
            shape = next(iter(feeds.values())).shape
            batch, sequence = shape[0], shape[-1]
        times = measure({"before": self._session, "after": candidate}, feeds, rounds=_ROUNDS, warmup=1)
        return (Timing(batch, sequence, times["before"].median_ms, times["after"].median_ms),)

    def _adapt(self, candidate: ort.InferenceSession) -> bool:
        """Take other samples if ``candidate`` has fixed sizes that these have not; whether it has come to that now.

        The model before it has no outputs for these, so that the pass that fixed the sizes is not compared with it.
        """
        assert self._session is not None
        inputs = inputs_of(candidate)
        if all(fits(feeds, inputs) for feeds in self.feeds):
            return False
        self._inputs, self._fixed = inputs, True
        self.sampler = self.sampler.of(inputs)
        self._sample(self._shapes)
        return True

    def _feeds(self, batch: int, sequence: int, seed: int) -> Feeds:
        length, padding = min(sequence, self._longest), batch > 1
        if self._fixed:
            length, padding = _fixed_length(self._inputs) or length, False
        return self.sampler.sample(batch, length, seed=SEED + seed, padding=padding, family="check")


def _widened(model: ir.Model) -> ir.Model:
    copy = functions.inlined(model)
    widen.widen(copy)
    return copy


def fits(feeds: Feeds, inputs: Sequence[Input]) -> bool:
    """Whether a sample has all sizes that are fixed."""
    pairs = [(feeds[one.name].shape, one.shape) for one in inputs if one.name in feeds]
    return all(dim in (None, size) or isinstance(dim, str) for one in pairs for size, dim in zip(*one, strict=False))


def _fixed_length(inputs: Sequence[Input]) -> int | None:
    """The number of tokens in a row, where tokens and masks have one that is fixed."""
    lengths = (one.shape[1] for one in inputs if len(one.shape) == 2 and one.dtype.kind == "i")
    return next((length for length in lengths if isinstance(length, int)), None)


def outcome(check: Check, result: Path | ir.Model) -> dict[str, Any]:
    """Load the result in ONNX Runtime and measure it; the fields of a `Report` that come from running models.

    Raises:
        TargetError: ONNX Runtime cannot load or run the result.
    """
    if check.skipped:
        if check.loads:
            session(result, settings=check.settings)
        return {"unchecked": check.skipped}
    start = time.perf_counter()
    candidate = session(result, settings=check.settings)
    loaded = time.perf_counter() - start
    parity = check.parity(candidate)
    if not parity.finite:
        raise TargetError(
            "the result gives NaN or infinity where the input model does not",
            fix="find the pass with --verify-each, and please report it",
        )
    return {
        "parity": parity,
        "timings": check.timings(candidate),
        "load_seconds": (check.load_seconds, loaded),
        "transfer_bytes": _gzipped(result) if isinstance(result, Path) else None,
    }


def _gzipped(file: Path) -> int:
    """Bytes of a file after gzip: what a download of it takes."""
    counter = _Counter()
    with gzip.GzipFile(fileobj=counter, mode="wb", compresslevel=6, mtime=0) as sink, file.open("rb") as source:
        while block := source.read(1 << 20):
            sink.write(block)
    return counter.count


class _Counter:
    """A file that only counts what is written to it."""

    def __init__(self) -> None:
        self.count = 0

    def write(self, data: bytes) -> int:
        self.count += len(data)
        return len(data)

    def flush(self) -> None:
        pass
