"""The page from its template, and to its place: whole, or not at all."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from string import Template

from bct_onnx import __version__, figures
from bct_onnx.errors import UsageError
from bct_onnx.graph.atomic import publish, temporary_folder
from bct_onnx.graph.save import check_writable as check_model_writable
from bct_onnx.page import sections
from bct_onnx.page.evidence import Evidence
from bct_onnx.page.markup import text
from bct_onnx.report import Report
from bct_onnx.runtime.latency import cpu_features

_TEMPLATE = "template.html"


def check_writable(page: Path, source: Path, result: Path, *, force: bool) -> None:
    """Find out before any work whether the page may be written.

    Raises:
        UsageError: It exists, is the model or the result, or its folder is missing or read-only.
    """
    if page.absolute() == result.absolute():
        raise UsageError("the page and the model have one name", where=str(page), fix="choose another for --report")
    check_model_writable(page, force=force, inputs=[source])


def write(page: Path, content: str, *, force: bool) -> None:
    """Give the page its place.

    Raises:
        OutputError: The system refuses.
        FileExistsError: Without ``force``, where something came there in the meantime.
    """
    place = page.absolute()
    with temporary_folder(place, len(content.encode())) as folder:
        (folder / place.name).write_text(content, encoding="utf-8")
        publish(folder / place.name, place, force=force)


def render(report: Report, evidence: Evidence, source: Path, result: Path) -> str:
    """The page as HTML."""
    template = Template(resources.files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8"))
    cpu = cpu_features()
    return template.substitute(
        title=text(f"{source.name}, compressed"),
        source=text(source.name),
        result=text(result.name),
        cards=_cards(report, evidence),
        smaller=sections.smaller(report),
        worse=sections.worse(report, evidence),
        where=sections.where(report, evidence),
        fast=sections.fast(report, evidence),
        sizes=sections.sizes(report, evidence),
        next=sections.following(report, source, result),
        version=text(__version__),
        target=text(report.target),
        machine=text(f"{cpu.model} ({cpu.architecture}), {platform.system()}"),
        pipeline=text(
            f"bct-onnx rewrite {source.name} -o {result.name} --target {report.target} --passes '{report.pipeline}'"
        ),
        data=json.dumps(report.as_dict()).replace("<", "\\u003c"),
    )


def _cards(report: Report, evidence: Evidence) -> str:
    """The answers in short, each a link to its section."""
    drawn = []
    for place, figure, name, words in _answers(report, evidence):
        lines = f"<b>{text(figure)}</b><span>{text(name)}</span><small>{text(words)}</small>"
        drawn.append(f'<a class="card" href="#{place}">{lines}</a>')
    return "".join(drawn)


def _answers(report: Report, evidence: Evidence) -> Iterator[tuple[str, str, str, str]]:
    """A section, a figure, what it is of, and what else is to be said."""
    before, after = map(figures.megabytes, report.file_bytes)
    bits = f"{before} to {after}, {report.after.bits_per_weight:.2f} bits per weight"
    yield "smaller", figures.times(report.ratio_file), "smaller", bits
    if report.parity is not None:
        worst = report.parity.worst[1]
        off, source = figures.off_by(worst.sqnr_db), report.parity.source
        if evidence.samples is not None and evidence.samples.figure[0]:
            words = f"off by {off} ({figures.decibels(worst.sqnr_db)}) on {source}"
            yield "worse", *evidence.samples.figure, words
        else:
            yield "worse", off, "is how far outputs are off", f"{figures.decibels(worst.sqnr_db)} on {source}"
    if evidence.weight_errors:
        layer, error = min(evidence.weight_errors.items(), key=lambda pair: pair[1].sqnr_db)
        yield "where", layer, "lost most", f"its stored weights are off by {figures.off_by(error.sqnr_db)}"
    timings = sections.timings_of(report, evidence)
    if timings:
        ratios = sorted(timing.before_ms / timing.after_ms for timing in timings)
        span = f"{ratios[0]:.2f}x to {ratios[-1]:.2f}x by shape, one thread"
        yield "fast", f"{ratios[len(ratios) // 2]:.2f}x", "faster", span
    yield "next", "Next", "score it on your data", "and other commands for this model"
