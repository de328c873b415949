"""The model card of a compressed folder: what was done, what it costs and gives, and how to load it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bct_onnx import __version__
from bct_onnx.exporting.checkpoint import task_of
from bct_onnx.folders.layouts import Layout, dtype_of
from bct_onnx.report import Report

_AUTO = {
    "feature-extraction": "ORTModelForFeatureExtraction",
    "fill-mask": "ORTModelForMaskedLM",
    "question-answering": "ORTModelForQuestionAnswering",
    "text-classification": "ORTModelForSequenceClassification",
    "text-generation": "ORTModelForCausalLM",
    "text2text-generation": "ORTModelForSeq2SeqLM",
    "token-classification": "ORTModelForTokenClassification",
}


def card(
    name: str,
    source: Path,
    layout: Layout,
    variant: str,
    config: Mapping[str, Any],
    reports: Mapping[Path, Report],
    notes: Sequence[str],
    original: str,
) -> str:
    """The text of the card.

    Args:
        name: Name of the folder, as it is loaded.
        source: The folder that it was made of; the card calls it SOURCE wherever it lies.
        layout: Of the folder.
        variant: Suffix of its models, where the layout has one.
        config: The checkpoint's configuration, which names the task.
        reports: What was done to each model, by its path in the folder.
        notes: What a reader should know of the folder as a whole.
        original: The source's own card, which follows; its front matter stays at the top.
    """
    matter, rest = _split(original)
    task = task_of(config.get("architectures") or ()) or "feature-extraction"
    auto = _AUTO[task]
    loading = layout.card.format(folder=name, dtype=dtype_of(variant), task=task, auto=auto)
    first = next(iter(reports.values()))
    parity = first.parity
    samples = f" on {parity.samples} samples ({parity.source})" if parity is not None else ""
    pipeline = first.pipeline.replace(str(source), "SOURCE")
    lines = [
        f"# {name}",
        "",
        f"Compressed by bct-onnx {__version__} for the target {first.target}. ONNX Runtime compared outputs with the "
        f"source's{samples}; {first.timed_in or 'it'} timed both with one thread ({platform.machine()}).",
        "",
        *_table(reports),
        "",
        *(f"- {note}" for note in notes),
        "",
        f"```{layout.language}",
        loading,
        "```",
        "",
        "Pipeline:",
        "",
        "```",
        f"bct-onnx rewrite SOURCE -o {name} --target {first.target} --passes '{pipeline}'",
        "```",
    ]
    tail = ["", "---", "", "The card of the source:", "", rest.strip()] if rest.strip() else []
    return matter + "\n".join([*lines, *tail]) + "\n"


def _table(reports: Mapping[Path, Report]) -> list[str]:
    lines = ["| model | source | here | smaller | SQNR of the worst output | speed |", "|---|---|---|---|---|---|"]
    for path, report in reports.items():
        before, after = report.file_bytes
        sqnr = report.unchecked or "outputs say nothing"
        if report.parity is not None:
            _, worst = report.parity.worst
            sqnr = f"{worst.sqnr_db:.1f} dB"
        speed = ", ".join(
            f"{timing.batch}x{timing.sequence}: {timing.before_ms / timing.after_ms:.2f}x" for timing in report.speeds
        )
        size = f"{before / 1e6:.1f} MB | {after / 1e6:.1f} MB | {report.ratio_file:.2f}x"
        lines.append(f"| {path} | {size} | {sqnr} | {speed or 'not timed'} |")
    return lines


def _split(text: str) -> tuple[str, str]:
    """Front matter (between two lines ``---``) and the rest of a card.

    >>> _split("---\\nlicense: mit\\n---\\n# A model")
    ('---\\nlicense: mit\\n---\\n', '# A model')
    """
    if not text.startswith("---\n"):
        return "", text
    end = text.find("\n---\n", 3)
    if end < 0:
        return "", text
    return text[: end + 5], text[end + 5 :]
