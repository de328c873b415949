"""The sections of the page, each HTML made of a report and of what was measured besides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bct_onnx import figures
from bct_onnx.base import EXACT
from bct_onnx.page import next_steps
from bct_onnx.page.evidence import Evidence
from bct_onnx.page.layers import in_order
from bct_onnx.page.markup import Bar, Point, bars, scatter, stack, table, text
from bct_onnx.registry import PASSES
from bct_onnx.report import Report, Step, Timing
from bct_onnx.runtime.int8_speed import int8_speed
from bct_onnx.runtime.latency import cpu_features
from bct_onnx.runtime.parity import Parity

_KINDS = {
    "embedding": "embeddings",
    "matmul": "weights of matrix products",
    "convolution": "convolutions",
    "recurrence": "recurrent cells",
    "scale": "scales of codes",
    "norm": "normalizations",
    "bias": "biases",
    "index": "shapes and positions",
    "other": "others",
}
_LISTED = 12


def smaller(report: Report) -> str:
    """Sizes by kind, before and after."""
    before, after = report.before.bytes_by_kind(), report.after.bytes_by_kind()
    kinds = [kind for kind in _KINDS if kind in before or kind in after]
    total = float(sum(before.values())) or 1.0
    stacks = []
    for label, sizes in (("before", before), ("after", after)):
        drawn = stack([(kind, float(sizes.get(kind, 0))) for kind in kinds], max(total, float(sum(after.values()))))
        stacks.append(f'<p class="label">{label}, {figures.megabytes(sum(sizes.values()))} of tensors</p>{drawn}')
    rows = []
    for number, kind in enumerate(kinds):
        left, right = before.get(kind, 0), after.get(kind, 0)
        ratio = figures.times(left / right) if left and right else ""
        name = f'<i class="key part{number % 6}"></i>{_KINDS[kind]}'
        rows.append([name, figures.megabytes(left), figures.megabytes(right), ratio])
    head = ["what", "before", "after", "smaller"]
    return "".join(stacks) + table(head, rows, "figures")


def _distances(parity: Parity) -> list[str]:
    off_by, decibels = figures.off_by(parity.sqnr_db), figures.decibels(parity.sqnr_db)
    return [off_by, decibels, f"{parity.cosine:.4f}", _top1(parity.top1)]


def worse(report: Report, evidence: Evidence) -> str:
    """Outputs against the source's, after every pass and at the end."""
    if report.parity is None:
        return f"<p>Outputs were not compared: {text(report.unchecked)}.</p>"
    parts = []
    rows = [[text(name), *_distances(parity)] for name, parity in report.parity.telling.items()]
    if rows:
        parts.append(table(["output", "off by", "SQNR", "cosine", "same top-1"], rows, "figures"))
    parts.append(
        f'<p class="note">{report.parity.samples} samples, {text(report.parity.source)}. {_harder(report)}</p>'
    )
    if evidence.samples is not None:
        shown = evidence.samples
        parts.append(f"<h3>Side by side</h3><p>{text(shown.about)}</p>")
        lines = [list(map(text, row)) for row in shown.rows]
        parts.append(table(["", "source", "result"], lines, "samples"))
    return "".join(parts)


def _harder(report: Report) -> str:
    made_up = report.parity is not None and "random" in report.parity.source
    if made_up:
        return "Made-up inputs move outputs further than real ones do: score it on your data."
    return ""


def _top1(value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f} %"


def where(report: Report, evidence: Evidence) -> str:
    """Error by pass and by layer, and what stayed float."""
    parts = []
    passes = list(_lossy(report.steps))
    if passes:
        parts.append('<h3>By pass</h3><p class="note">How far outputs are off after each pass that may move them.</p>')
        parts.append(bars(passes))
    if evidence.weight_errors:
        drawn: list[Bar] = []
        for layer, error in evidence.weight_errors.items():
            drawn.append(Bar(layer, (figures.share_of_error(error.sqnr_db),), figures.off_by(error.sqnr_db)))
        parts.append('<h3>By layer</h3><p class="note">How far stored weights are off, by layer.</p>' + bars(drawn))
    parts.append("<h3>Stayed in floating point</h3>" + _left(report))
    return "".join(parts)


def _lossy(steps: Sequence[Step]) -> Iterator[Bar]:
    for step in steps:
        name = step.text.partition("{")[0]
        exact = name in PASSES and PASSES[name].promise == EXACT
        if step.parity is None or exact or not step.sites:
            continue
        worst = step.parity.worst[1].sqnr_db
        places = figures.counted(len(step.sites), "place")
        words = f"{figures.off_by(worst)} <small>{places}, {step.seconds:.1f} s</small>"
        yield Bar(name, (figures.share_of_error(worst),), words)


def _left(report: Report) -> str:
    left = report.float_weights_left
    if not left:
        return "<p>Nothing.</p>"
    reasons: dict[str, list[tuple[str, int]]] = {}
    for name, nbytes, reason in left:
        reasons.setdefault(reason, []).append((name, nbytes))
    rows = []
    for reason, tensors in list(reasons.items())[:_LISTED]:
        size = figures.megabytes(sum(nbytes for _, nbytes in tensors))
        rows.append([text(reason), str(len(tensors)), size, f"<code>{text(tensors[0][0])}</code>"])
    return table(["why", "tensors", "size", "such as"], rows, "left")


def fast(report: Report, evidence: Evidence) -> str:
    """Times of both files, by shape, by layer and by operator."""
    timings = timings_of(report, evidence)
    if not timings:
        why = report.unchecked or report.untimed or f"the runtime of the target {report.target} is not at hand here"
        return f"<p>Nothing was timed: {text(why)}.</p>"
    shapes = [_timed(f"{timing.batch} x {timing.sequence}", timing.before_ms, timing.after_ms) for timing in timings]
    place = text(f", {report.timed_in}" if report.timed_in else "")
    parts = [f'<p class="label">Batch x tokens, one thread{place} <i class="key before"></i>before ']
    parts.append(f'<i class="key after"></i>after</p>{bars(shapes)}')
    if report.load_seconds is not None:
        before, after = report.load_seconds
        parts.append(f'<p class="note">Loading takes {before:.2f} s before, {after:.2f} s after. ')
        parts.append(f"8-bit products on this CPU: {text(int8_speed().summary(cpu_features()))}</p>")
    parts += _profiles(evidence)
    return "".join(parts)


def _profiles(evidence: Evidence) -> Iterator[str]:
    """Milliseconds by layer and by operator."""
    shape = " x ".join(map(str, evidence.profiled))
    before, after = evidence.layer_ms
    if before or after:
        layers = [_timed(layer, before.get(layer, 0), after.get(layer, 0)) for layer in in_order([*before, *after])]
        note = f"The least time of each operator in some runs of ONNX Runtime, at {shape}."
        yield f'<h3>By layer</h3><p class="note">{note}</p>{bars(layers)}'
    before, after = evidence.operator_ms
    if after:
        names = dict.fromkeys([*list(after)[:7], *list(before)[:3]])
        operators = [_timed(name, before.get(name, 0), after.get(name, 0)) for name in names]
        yield "<h3>By operator</h3>" + bars(operators)


def timings_of(report: Report, evidence: Evidence) -> list[Timing]:
    """All times, the smallest shape first."""
    return sorted([*report.speeds, *evidence.timings], key=lambda timing: timing.batch * timing.sequence)


def _timed(name: str, before: float, after: float) -> Bar:
    left, right = (figures.milliseconds(each) if each else "none" for each in (before, after))
    words = f"{left} &rarr; {right}"
    if before and after:
        words += f" <small>{before / after:.2f}x</small>"
    return Bar(name, (before, after), words)


def sizes(report: Report, evidence: Evidence) -> str:
    """What the model would be in other numbers of bits."""
    source = "<p>Not measured here; <code>bct-onnx study MODEL --by size</code> does it.</p>"
    if not evidence.alternatives or report.parity is None:
        return source
    sqnr_db = report.parity.worst[1].sqnr_db
    points = [Point(f"{other.bits} bits", other.nbytes / 1e6, other.sqnr_db) for other in evidence.alternatives]
    points.append(Point("this file", report.file_bytes[1] / 1e6, sqnr_db, chosen=True))
    rows = []
    for other in evidence.alternatives:
        distance, faster = figures.decibels(other.sqnr_db), "" if other.faster is None else f"{other.faster:.2f}x"
        rows.append([f"{other.bits}-bit weights", figures.megabytes(other.nbytes), distance, faster])
    rows.append(
        ["<b>this file</b>", figures.megabytes(report.file_bytes[1]), figures.decibels(sqnr_db), _faster(report)]
    )
    note = "The others are rounded to nearest and not calibrated, which takes seconds: what each could be at least."
    drawn = scatter(points, "MB", "SQNR of the worst output, dB (more is better)")
    return f'<p class="note">{note}</p>{drawn}' + table(["", "size", "SQNR", "faster"], rows, "figures")


def _faster(report: Report) -> str:
    return "".join(f"{timing.before_ms / timing.after_ms:.2f}x" for timing in report.speeds)


def following(report: Report, source: Path, result: Path) -> str:
    """What to do now, as commands."""
    parts = []
    for step in next_steps.of(report, source, result):
        parts.append(f"<h3>{text(step.title)}</h3><p>{text(step.why)}</p><pre><code>{text(step.command)}</code></pre>")
    return "".join(parts)
