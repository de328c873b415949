"""Measure what goes through the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.errors import TargetError, UsageError
from bct_onnx.forms import measured
from bct_onnx.forms.embeddings import embeddings
from bct_onnx.graph import optional
from bct_onnx.graph.known import initializer_nbytes
from bct_onnx.graph.names import by_name, without
from bct_onnx.runtime.inputs import inputs_of
from bct_onnx.runtime.looking import Runs, look
from bct_onnx.runtime.observer import Observer
from bct_onnx.runtime.segments import InSegments
from bct_onnx.runtime.session import IN_MEMORY_LIMIT
from bct_onnx.runtime.statistics import KEY, SCORES
from bct_onnx.runtime.understanding import Sampler
from bct_onnx.study.allocation import sensitivity
from bct_onnx.tasks import own_text, sources
from bct_onnx.tasks.calibration import CalibrationData
from bct_onnx.tasks.samples import Samples

LIMIT = 1 << 30
"""Bytes of weights above which a model is not run unasked: that would take several times its size in memory."""

RANDOM, TEXT = 64, 128
"""Tokens per sequence, unless option sequence says otherwise: random ones, and at most so many of the user's data."""

RANDOM_SAMPLES, SAMPLES, TOKENS = 128, 1024, 1 << 15
"""Sequences, unless option samples says otherwise: random ones, and at most so many of the data of so many tokens."""


@dataclasses.dataclass(frozen=True)
class Calibrate(Pass):
    """Run the model on the user's data, or on seeded random tokens, and note the ranges and sizes of its values.

    Why:
        A few channels of a transformer are tens of times larger than the rest. Smoothing and weighted rounding need
        to know which; random tokens show them about as well as text does, so no data is needed. Fixed scales for
        activations need ranges, and these are best taken from data like that of the model's task.

    Before/after:
        The graph stays as it is; later passes find the statistics beside the values: per channel (last axis) what goes
        into and out of each MatMul with a constant weight, normalization, activation, attention, residual and embedding
        sum, and over all elements what goes into and comes out of a Softmax.

    Declines:
        Models with more than 1 GiB of weights unless data is given, values inside subgraphs, what depends on an
        optional input, and models whose inputs are not understood: no output is finite, or all depend on nothing.

    Made-up inputs:
        An input is understood by what the graph does with it. Where two readings are possible the one is taken with
        which outputs are finite and depend on the others. One run hands out at most 0.5 GiB of values and computes
        1 GiB unless a single sample takes more; all runs 32 GiB, or 2 GiB of pictures and sound.

    Options:
        data: The user's data: a table (.csv, .tsv, .jsonl, .parquet), a text with a line per sample, an .npz with token
            ids (tokens and lengths) or an array per model input, or a data set by NAME[/CONFIGURATION][:SPLIT]; random
            tokens without it. builtin:english is text that comes with this package; a model or tokenizer that it does
            not suit gets random tokens. A value with spaces goes in double quotes.
        tokenizer: Folder of the model's tokenizer.json; texts need it.
        column: Column of a table that holds the texts, or two for pairs (``a|b``), by name or number.
        samples: Number of sequences, taken evenly from all of the data; 0 is 128 random ones, or up to 1024 of the data
            with 32768 tokens together.
        sequence: Tokens in each; 0 is 64 random ones, or up to 128 of the data. Never more than the model has positions
            for.
        seed: Seed of the random tokens.
        products: Also gather XᵀX of each input, which the solvers of quantize-weights need; inputs wider than 4096 and
            whatever does not fit in 1 GiB together go without.

        tables: Also measure what errors in the rows of large tables do to the outputs, one channel after the other: the
            model runs on 8 to 64 texts as often as a row has values.

    Promise:
        Exact: nothing is changed.
    """

    name: ClassVar[str] = "calibrate"
    stage: ClassVar[Stage] = Stage.MEASURE

    data: str = ""
    tokenizer: str = ""
    column: tuple[str, ...] = ()
    samples: int = 8
    sequence: int = 0
    seed: int = 0
    products: bool = False
    tables: bool = False

    def __post_init__(self) -> None:
        if not self.data and (self.tokenizer or self.column):
            raise UsageError("a tokenizer or column is of no use without data", fix="give the data too")
        if self.samples < 0 or self.sequence < 0:
            raise UsageError(f"samples={self.samples} sequence={self.sequence} is not allowed", fix="use larger ones")

    def reads(self) -> dict[str, Path]:
        """The data and the tokenizer's file, where they are given."""
        files: dict[str, Path] = {}
        if self.data and self.data != own_text.NAME and sources.is_file(self.data):
            files["data"] = Path(self.data)
        if self.tokenizer:
            files["tokenizer"] = Path(self.tokenizer) / "tokenizer.json"
        return files

    def apply(self, model: ir.Model) -> Applied:
        """Leave `ChannelStatistics` in the ``meta`` of every value listed above.

        Raises:
            UsageError: The data cannot be read, or the model does not run on it.
        """
        if self.data != own_text.NAME:
            return self._measure(model)
        try:
            reason = own_text.refusal(model, Path(self.tokenizer))
            if not reason:
                return self._measure(model)
        except UsageError as error:
            reason = error.what
        applied = dataclasses.replace(self, data="", tokenizer="")._measure(model)
        note = f"{applied.note}; no English text of ours: {reason}" if applied.note else ""
        return Applied(model, applied.sites, applied.declined, modified=applied.modified, note=note)

    def _measure(self, model: ir.Model) -> Applied:
        """Run the model on what was given."""
        self._given.leave(model)
        free = optional.dependent(model)
        inputs = measured.weighted(model.graph)
        weighted = _named(inputs, free)
        values = weighted | _named(measured.others(model.graph), free)
        declined: list[Declined] = []
        for graph in model.graph.subgraphs():
            declined += [Declined(value.name or "", "inside a subgraph") for value in measured.weighted(graph)]
        declined += [Declined(value.name or "", _OPTIONAL) for value in inputs if value.name in free]
        if reason := self._too_big(model):
            return Applied(model, (), [Declined(model.graph.name or "graph", reason)])
        if not values:
            return Applied(model, (), declined, modified=False)
        scored = [node.outputs[0] for node in model.graph if measured.gives_scores(node)]
        attentions = _named(scored, free)
        figures = self._figures(weighted, values, attentions)
        try:
            seen, source = self._run(model, list(values.values()), figures)
        except TargetError as error:
            if self.data:
                raise UsageError(
                    "the model does not run on the data",
                    where=self.data,
                    why=error.why,
                    fix="is the tokenizer the model's own?",
                ) from error
            return _undecided(model, declined, f"{error.what}: {error.why}")
        for name, value in values.items():
            value.meta[KEY] = dataclasses.replace(seen.found[name], random=not self.data)
        for name, value in attentions.items():
            value.meta[SCORES] = dataclasses.replace(seen.scores[name], random=not self.data)
        sites = [Site(name, (), f"{seen.found[name].rows} vectors from {source}") for name in weighted]
        if self.tables:
            plain = [table for table in embeddings(model) if not table.layers and not table.others]
            owned = [table.value for table in plain if table.value.graph is model.graph]
            declined += sensitivity.leave(model, owned)
        return Applied(model, sites, declined, modified=False, note=source)

    def _too_big(self, model: ir.Model) -> str:
        """Why the model is not run; data that cannot be used is an error."""
        nbytes = initializer_nbytes(model.graph)
        reason = f"the model has {nbytes / 1e9:.1f} GB of weights; it is not run"
        if nbytes > IN_MEMORY_LIMIT and self.data:
            raise UsageError("the data cannot be used", why=reason, fix="leave the data out")
        if nbytes > LIMIT and not self.data:
            return reason
        return ""

    def _figures(
        self, weighted: dict[str, ir.Value], values: dict[str, ir.Value], attentions: Iterable[str]
    ) -> dict[str, Any]:
        """What is to be known of which value, as observers take it."""
        whole = {name for name, value in values.items() if name not in weighted and not measured.has_channels(value)}
        products = measured.affordable(weighted.values()) if self.products else frozenset[str]()
        return {"whole": whole, "products": products, "attentions": tuple(attentions)}

    def _run(
        self, model: ir.Model, values: Sequence[ir.Value], figures: Mapping[str, Any]
    ) -> tuple[Observer | InSegments, str]:
        """Look at everything; who has seen it, and in words where it came from.

        Raises:
            TargetError: The model does not run, or samples that were made up say nothing of it.
        """
        observer, length = Observer(model, values, only_sizes=True), self.sequence or (TEXT if self.data else RANDOM)
        sampler = None
        try:
            sampler = Sampler(model, observer.session)
            length = sampler.longest(length)
        except TargetError:
            if not self.data:
                raise
        size = min(BATCH, max(1, FETCHED // measured.fetched_bytes(values, length)))
        if self.data:
            runs = self._from_data(model, length, size, observer)
        else:
            assert sampler is not None
            runs = self._made_up(sampler, length, size, observer)
        del observer
        if sampler is not None:
            sampler.forget_runner()
        return look(model, values, figures, runs, FETCHED), runs.source

    def _from_data(self, model: ir.Model, length: int, size: int, observer: Observer) -> Runs:
        samples = self._read(model, length, self.samples or SAMPLES)
        if not self.samples and samples.tokens > TOKENS:
            samples = self._read(model, length, max(1, len(samples.rows) * TOKENS // samples.tokens))
        sample = next(samples.batches(1))
        sizes = observer.sizes(sample)
        sample_bytes = sum(sizes.values())
        longer = -(-length // min((array.shape[1] for array in sample.values() if array.ndim == 2), default=length))
        size = min(size, max(1, COMPUTED // max(1, sample_bytes)))
        source = samples.source
        if self.data == own_text.NAME:
            source = f"English text of ours, no data given ({len(samples.rows)} texts, {samples.tokens} tokens)"
        return Runs(samples.batches(size), 0, source, sizes, size * longer)

    def _read(self, model: ir.Model, length: int, limit: int) -> Samples:
        return self._given.read(inputs_of(model), limit, length)

    @property
    def _given(self) -> CalibrationData:
        return CalibrationData.ahead([self])

    def _made_up(self, sampler: Sampler, length: int, size: int, observer: Observer) -> Runs:
        if sampler.reason:
            raise TargetError("made-up inputs say nothing of the model", why=sampler.reason)
        sizes = observer.sizes(sampler.sample(1, length))
        sample_bytes = max(1, sum(sizes.values()))
        size = sampler.rows(min(size, max(1, COMPUTED // sample_bytes)), length)
        work = WORK_ON_SIGNALS if sampler.has_signals else WORK
        count = min(self.samples or RANDOM_SAMPLES, max(1, work // sample_bytes))
        starts = range(0, count, size)
        feeds = (sampler.sample(min(size, count - at), length, seed=self.seed + at) for at in starts)
        source = f"made-up inputs ({'; '.join(sampler.notes)}); {OFFER}" if sampler.notes else RANDOM_TOKENS
        return Runs(feeds, len(starts), source, sizes, size)


def _named(values: Iterable[ir.Value], free: Container[str]) -> dict[str, ir.Value]:
    """The values by name, without those that are ``free``."""
    return by_name(without(values, free))


_OPTIONAL = "depends on an optional input, of which only the default is known"


def _undecided(model: ir.Model, declined: list[Declined], reason: str) -> Applied:
    """Nothing is decided by calibration, and why."""
    note = f"{reason}; so activations get scales at run time; {OFFER}"
    return Applied(model, (), [*declined, Declined(model.graph.name or "graph", reason)], modified=False, note=note)


RANDOM_TOKENS = "random tokens (no data given)"

OFFER = "one sample of your own is better: --calibrate FILE.npz, an array per input"

BATCH = 8
"""Most sequences per run."""

FETCHED = 1 << 29
"""Bytes of values that one run may hand out: large models run on fewer sequences at a time, or more than once."""

COMPUTED = 1 << 30
"""Bytes of values that one run may compute, those that stay in ONNX Runtime among them, if it has several sequences."""

WORK, WORK_ON_SIGNALS = 1 << 35, 1 << 31
"""Bytes of values that all runs on made-up inputs compute together: fewer samples where each of them takes much. A
picture or a second of sound has many positions, of which a few samples show as much."""
