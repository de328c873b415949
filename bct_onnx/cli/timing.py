"""What ``bct-onnx bench`` runs and shows: its groups of options."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from bct_onnx.cli import options
from bct_onnx.cli.groups import OptionGroup

if TYPE_CHECKING:
    from bct_onnx.runtime.lineup import Shape
    from bct_onnx.tasks.texts import TextBatches


ELSEWHERE = "openvino"
"""The one ``--provider`` that is none of ONNX Runtime."""


@dataclasses.dataclass(frozen=True)
class Runs(OptionGroup):
    """What is run and timed."""

    panel: ClassVar[str] = "What to run"

    batch: Annotated[int | None, typer.Option(min=1, metavar="N", help="Rows per run; by default 8.")] = None
    seq: Annotated[
        int, typer.Option(min=1, metavar="N", help="Tokens per row; with --tokens, of the prompt. By default 128.")
    ] = 128
    shape: Annotated[
        list[str] | None, typer.Option(metavar="BxS", help="Batch and sequence, instead of both above; repeatable.")
    ] = None
    tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Decoders with a cache: the prompt (one row by default), then so many single tokens.",
        ),
    ] = None
    inputs: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Inputs by name, instead of made-up ones of the shapes above."),
    ] = None
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Timed runs per model, interleaved; by default 10 (--by-pass: 5, --kernels: 60).",
        ),
    ] = None
    provider: Annotated[str, typer.Option(metavar="P", help="cpu, cuda where onnxruntime has it, or openvino.")] = "cpu"

    def shapes(self) -> list[Shape]:
        """Rows and tokens of each run.

        Raises:
            UsageError: A shape is written in another way than BxS.
        """
        if self.shape:
            return list(map(parse_shape, self.shape))
        rows = 1 if self.tokens is not None else 8
        return [(self.batch or rows, self.seq)]


@dataclasses.dataclass(frozen=True)
class Showing(OptionGroup):
    """What is told besides times, of which models."""

    panel: ClassVar[str] = "What else to show"

    against: Annotated[
        list[str] | None,
        typer.Option(metavar="TOOL", help="Add what ort-dynamic, ort-nbits4, ... makes of the first; repeatable."),
    ] = None
    profile: Annotated[
        bool, typer.Option("--profile", help="Also the time per operator that ORT runs, at the first shape.")
    ] = False
    nodes: Annotated[
        bool, typer.Option("--nodes", help="Also how many nodes of each operator ORT runs after its own fusions.")
    ] = False
    memory: Annotated[
        bool, typer.Option("--memory", help="Also resident memory, each model in a process of its own (Linux).")
    ] = False


@dataclasses.dataclass(frozen=True)
class Texts(OptionGroup):
    """Real texts in place of made-up inputs."""

    panel: ClassVar[str] = "On real texts"

    texts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A .csv, .tsv or .jsonl, or a text of lines: all of it, in padded batches."),
    ] = None
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of tokenizer.json; the first model's by default.")
    ] = None
    column: Annotated[
        str | None, typer.Option(metavar="COLUMN[,COLUMN]", help="Of a table: the texts, or two columns of pairs.")
    ] = None
    order: Annotated[
        str | None, typer.Option(metavar="file|shuffled|sorted", help="By default as they stand in the file.")
    ] = None
    max_length: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Tokens to which a text is cut; by default 128.")
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first so many texts.")] = None

    def read(self, model: Path, batch: int | None) -> TextBatches | None:
        """The texts in batches of so many, by default 32; None where none were given.

        Args:
            model: Beside it lies the tokenizer unless another is given.
            batch: Texts of a batch.

        Raises:
            UsageError: They cannot be read, or an option of texts is given without them.
        """
        from bct_onnx.tasks.texts import TextBatches

        if self.texts is None:
            options.refuse(
                {f"--{name.replace('_', '-')}": value for name, value in vars(self).items()}, "without --texts"
            )
            return None
        return TextBatches.read(
            self.texts,
            self.tokenizer or model.parent,
            size=batch or 32,
            order=self.order or "file",
            columns=options.listed(self.column),
            length=self.max_length or 128,
            limit=self.limit,
        )


def parse_shape(text: str) -> Shape:
    """Batch and sequence from BxS.

    Raises:
        UsageError: It is written in another way.
    """
    from bct_onnx.errors import UsageError

    match = re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", text)
    if match is None:
        raise UsageError(f"'{text}' is not a shape", where="--shape", fix="write batch x sequence, for example 8x128")
    return int(match[1]), int(match[2])


def providers_of(name: str) -> list[str]:
    """The execution providers of ONNX Runtime for `cpu` or `cuda`; with `openvino`, those of what is not timed.

    Raises:
        UsageError: It is another, or it is not installed.
    """
    import onnxruntime

    from bct_onnx.errors import UsageError
    from bct_onnx.runtime import openvino

    if name == ELSEWHERE:
        if not openvino.is_installed():
            raise UsageError("OpenVINO is not installed", where="--provider", fix=openvino.EXTRA)
        return providers_of("cpu")
    known = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}
    if name not in known:
        raise UsageError(f"unknown provider '{name}'", where="--provider", fix=f"use {', '.join(known)} or {ELSEWHERE}")
    available = onnxruntime.get_available_providers()
    if known[name][0] not in available:
        raise UsageError(
            f"the installed onnxruntime has no {known[name][0]}",
            where="--provider",
            why=f"it has {', '.join(available)}",
            fix="install onnxruntime-gpu on a machine with such a device, or measure on the cpu",
        )
    return known[name]


def parse_threads(text: str) -> list[int]:
    """Numbers of threads, one after the other; 0 leaves the number to ONNX Runtime.

    >>> parse_threads("1,4,all")
    [1, 4, 0]

    Raises:
        UsageError: It is neither a number nor `all`.
    """
    from bct_onnx.errors import UsageError

    numbers = ["0" if word == "all" else word for word in text.split(",")]
    for word in numbers:
        if not word.isdecimal():
            raise UsageError(f"'{word}' is not a number of threads", where="--threads", fix="for example 1,2,4,all")
    return list(map(int, dict.fromkeys(numbers)))
