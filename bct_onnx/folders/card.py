"""The model card of a compressed folder: what was done, what it costs and gives, and how to load it."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bct_onnx import __version__
from bct_onnx.exporting.checkpoint import task_of
from bct_onnx.folders.layouts import Layout, dtype_of
from bct_onnx.report import Report


@dataclasses.dataclass(frozen=True)
class _Use:
    """How models of a task are used by optimum, in words that go into `Layout.card`.

    Attributes:
        auto: Class of optimum.
        use: Lines that run the model.
        reader: Class of transformers that makes its inputs.
        reads: What that is called.
        example: What transformers.js is given.
    """

    auto: str
    use: str = 'outputs = model(**tokenizer("a text", return_tensors="pt"))'
    reader: str = "AutoTokenizer"
    reads: str = "tokenizer"
    example: str = "a text"


_WRITES = """\
tokens = model.generate(**tokenizer("a text", return_tensors="pt"))
print(tokenizer.batch_decode(tokens, skip_special_tokens=True))"""

_HEARS = """\
sound = ...  # numbers from -1 to 1, 16,000 a second
tokens = model.generate(**processor(sound, sampling_rate=16000, return_tensors="pt"))
print(processor.batch_decode(tokens, skip_special_tokens=True))"""

_USES = {
    "automatic-speech-recognition": _Use("ORTModelForSpeechSeq2Seq", _HEARS, "AutoProcessor", "processor", "sound.wav"),
    "feature-extraction": _Use("ORTModelForFeatureExtraction"),
    "fill-mask": _Use("ORTModelForMaskedLM"),
    "question-answering": _Use("ORTModelForQuestionAnswering"),
    "text-classification": _Use("ORTModelForSequenceClassification"),
    "text-generation": _Use("ORTModelForCausalLM", _WRITES),
    "text2text-generation": _Use("ORTModelForSeq2SeqLM", _WRITES),
    "token-classification": _Use("ORTModelForTokenClassification"),
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
    use = dataclasses.asdict(_USES[task])
    loading = layout.card.format(folder=name, dtype=dtype_of(variant), task=task, **use)
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
