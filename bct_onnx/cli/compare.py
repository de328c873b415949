"""``bct-onnx compare``: models side by side, on made-up inputs or on the labelled data of a task."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from bct_onnx.cli import options
from bct_onnx.cli.groups import OptionGroup, grouped

if TYPE_CHECKING:
    import onnx_ir as ir
    import onnxruntime as ort

    from bct_onnx.runtime.feeds import Feeds
    from bct_onnx.runtime.parity import Parity
    from bct_onnx.tasks.tokens import Batch

_SCORED = options.TaskData.panel


@dataclasses.dataclass(frozen=True)
class Samples(OptionGroup):
    """The inputs that two models are run on where there is no task."""

    panel: ClassVar[str] = "Without a task: on which inputs"

    inputs: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Inputs by name; made-up ones without it.")
    ] = None
    samples: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of made-up samples; by default 8.")
    ] = None
    seq: Annotated[int | None, typer.Option(min=1, metavar="N", help="Tokens per row; by default 32.")] = None
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of the made-up inputs; by default 0.")] = None

    def feeds(self, session: ort.InferenceSession, model: ir.Model, batch: int) -> tuple[list[Feeds], str]:
        """The inputs, and where they come from.

        Args:
            session: The reference, loaded.
            model: Its graph, which tells what the inputs mean.
            batch: Rows of each made-up sample.
        """
        from bct_onnx.runtime.feeds import load_feeds
        from bct_onnx.runtime.understanding import Sampler

        if self.inputs is not None:
            return [load_feeds(self.inputs, session)], str(self.inputs)
        tokens, seed = self.seq or 32, self.seed or 0
        sampler = Sampler(model, session)
        length = sampler.longest(tokens)
        rows = sampler.rows(batch, length)
        seeds = range(seed, seed + (self.samples or 8))
        made_up = [sampler.sample(rows, length, seed=each, family="check") for each in seeds]
        return made_up, f"random inputs {batch}x{tokens}, seed {seed}"


@dataclasses.dataclass(frozen=True)
class Gates(OptionGroup):
    """What ends the command with exit code 1, after its table is printed."""

    panel: ClassVar[str] = "What must be met (else it exits with 1)"

    min_sqnr: Annotated[
        float | None, typer.Option(metavar="DB", help="Without a task: the least SQNR of all outputs.")
    ] = None
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="With one: how much worse than the first a model may be: points (of 100); perplexity: percent.",
        ),
    ] = None
    min_ratio: Annotated[
        float | None,
        typer.Option(metavar="R", help="With one: how many times smaller by parameters each must be than fp32."),
    ] = None


@grouped
def compare(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="ONNX files; the first is the reference.")],
    *,
    scored: options.TaskData,
    size: options.TaskSize,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of tokenizer.json; the model's by default.", rich_help_panel=_SCORED),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            metavar="mean|first|last",
            help="similarity and retrieval: by default as the model's folder says, else mean.",
            rich_help_panel=_SCORED,
        ),
    ] = None,
    cache_step: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="perplexity: also N tokens at a time through the key-value cache.",
            rich_help_panel=_SCORED,
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What 'worse by' and --max-drop go by; by default the first.", rich_help_panel=_SCORED
        ),
    ] = None,
    samples: Samples,
    gates: Gates,
    batch: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Rows per run: by default 2, of a task's data 32.")
    ] = None,
    threads: options.Threads = 1,
    as_json: options.AsJson = False,
) -> None:
    """Run models on the same inputs and compare outputs, sizes and operators; with --task and --data, their scores.

    Without a task two models are compared; outputs are paired by position. SQNR is the power of the first one's output
    over the power of the difference, in dB; top-1 is how often the largest column of a row is the same.

    With a task, any number of models; the extra is needed: pip install 'bct-onnx[eval]'. classification: accuracy, F1,
    Matthews. regression, similarity (pooled embeddings, cosine): Spearman, Pearson. retrieval (a row per query, passage
    and relevance): NDCG@10, recall. token-classification: F1, precision, recall of entities. All x 100. perplexity: per
    token; a text is tokenized whole and cut into windows, each predicted from its own start. Beside the scores, which
    saturate: SQNR (dB) of the outputs from the first model's, KL divergence (nats) of its distribution, and how often
    the largest logit is the same.
    """
    if scored.task is None and scored.data is None:
        unused = {"--tokenizer": tokenizer, "--text": scored.text, "--label": scored.label, "--limit": size.limit}
        unused |= {"--pooling": pooling, "--cache-step": cache_step, "--metric": metric}
        options.refuse(unused | {"--max-drop": gates.max_drop, "--min-ratio": gates.min_ratio}, "without --task")
        _on_inputs(models, samples, batch or 2, threads, gates, as_json=as_json)
        return
    from bct_onnx.cli.tables.scores import print_scores
    from bct_onnx.errors import UsageError
    from bct_onnx.tasks.scoring import Scoring, gate

    unused = {"--inputs": samples.inputs, "--samples": samples.samples, "--seq": samples.seq, "--seed": samples.seed}
    options.refuse(unused | {"--min-sqnr": gates.min_sqnr}, "with --task")
    if cache_step is not None and scored.task != "perplexity":
        raise UsageError("only perplexity goes through a cache", where="--cache-step", fix="leave it out")
    task = scored.load(models[0], tokenizer, max_length=size.max_length, limit=size.limit, pooling=pooling)
    assert task is not None and scored.task is not None and scored.data is not None  # one of them was given
    scoring = Scoring(task, scored.task, scored.data, metric, cache_step, batch or 32, threads)
    result = scoring.scores(models, _with_progress)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        print_scores(result)
    gate(result, gates.max_drop, gates.min_ratio)


def _with_progress(batches: Sequence[Batch]) -> Iterator[Batch]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(batches, "evaluating", console=console, transient=True) if console.is_terminal else batches


def _on_inputs(
    models: Sequence[Path], samples: Samples, batch: int, threads: int, gates: Gates, *, as_json: bool
) -> None:
    """Compare the outputs of two models."""
    from bct_onnx.cli.tables.parity import print_parity
    from bct_onnx.errors import UsageError
    from bct_onnx.graph.load import load, size
    from bct_onnx.runtime.parity import measure_parity
    from bct_onnx.runtime.session import session
    from bct_onnx.targets import settings

    if len(models) != 2:
        fix = "give two, or add --task and --data, which compare any number of models by their scores"
        raise UsageError(f"outputs of two models are compared, not of {len(models)}", fix=fix)
    loaded = list(map(load, models))
    opened: list[ort.InferenceSession] = []
    for path, model in zip(models, loaded, strict=True):
        opened.append(session(path, threads=threads, settings=settings(model.metadata_props)))
    first, second = opened
    feeds, source = samples.feeds(first, loaded[0], batch)
    parity = measure_parity(first, second, feeds, source=source)
    result = {
        "reference": {"model": str(models[0]), "bytes": size(models[0])},
        "candidate": {"model": str(models[1]), "bytes": size(models[1])},
        "parity": parity.as_dict(),
        "operators": _changed(*map(_operators, loaded)),
    }
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        print_parity(result, parity)
    _gate(parity, gates.min_sqnr, models[1])


def _operators(model: ir.Model) -> Counter[str]:
    """Nodes per operator: subgraphs count, and the body of every function once."""
    from bct_onnx.graph.operators import dotted

    counts: Counter[str] = Counter()
    bodies: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for body in bodies:
        counts.update(map(dotted, body.all_nodes()))
    return counts


def _changed(before: Counter[str], after: Counter[str]) -> dict[str, list[int]]:
    names = sorted(before | after)
    return {name: [before[name], after[name]] for name in names if before[name] != after[name]}


def _gate(parity: Parity, least: float | None, candidate: Path) -> None:
    """Raise where the outputs are further apart than the user accepts."""
    from bct_onnx.errors import GateError

    if least is None or (parity.finite and parity.sqnr_db >= least):
        return
    why = f"it is {parity.sqnr_db:.2f} dB" if parity.finite else "outputs are not finite where the reference's are"
    raise GateError(f"the SQNR misses --min-sqnr {least:g}", where=str(candidate), why=why)
