"""The end of a run, and the inventory of a model, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from bct_onnx.cli.tables.cells import console, grid
from bct_onnx.figures import decibels, megabytes
from bct_onnx.graph.inventory import Inventory
from bct_onnx.graph.runtimes import Lowest
from bct_onnx.runtime.int8_speed import int8_speed
from bct_onnx.runtime.latency import cpu_features
from bct_onnx.runtime.openvino import EXTRA
from bct_onnx.targets import Legality, Products, find

if TYPE_CHECKING:
    from bct_onnx.report import Report, Step
    from bct_onnx.rewriting import Options

_LONGEST = 72  # characters of a pass in the table: paths are long, and the last line has everything
_LISTED = 5  # lines of what stayed float, and operators, before "and N more"


def print_report(report: Report, model: Path, options: Options, *, verbose: bool) -> None:
    """Print what one rewrite has done."""
    out = console()
    target = f"-o {options.output}" if options.output else "--dry-run"
    out.print(f"bct-onnx rewrite {model} {target}   ({report.target})")
    out.print(_steps(report, verified=options.verify_each))
    for label, text in _summary(report, options):
        out.print(f"  {label:<10} {text}")
    if verbose:
        _print_details(out, report.steps)


def inventory_lines(
    parts: Inventory,
    nbytes: int,
    left: list[tuple[str, int, str]],
    unfolded: str | None,
    metadata: Mapping[str, str],
) -> list[str]:
    """What a model is made of, and what this program has noted in it."""
    facts = [
        ("size", f"{megabytes(nbytes)}, {parts.parameters:,} parameters, {parts.bits_per_weight:.2f} bits/weight"),
        ("", f"{parts.ratio_parameters:.2f}x smaller than fp32 by parameters"),
        ("kinds", ", ".join(f"{kind} {megabytes(size)}" for kind, size in parts.bytes_by_kind().items())),
        ("ops", _listed([f"{name} {count}" for name, count in parts.operators.items()], 16)),
        *_left(left),
    ]
    if unfolded:
        facts.append(("unfolded", unfolded))
    facts += [(key.removeprefix("bct_onnx."), value) for key, value in metadata.items() if key.startswith("bct_onnx.")]
    return [f"  {label:<10} {text}" for label, text in facts]


def _steps(report: Report, *, verified: bool) -> Table:
    outputs = ["outputs"] if verified else []
    table = grid("  pass", ("changed", "declined", "size", "weight error", *outputs, "time"))
    for step in report.steps:
        text = step.text if len(step.text) <= _LONGEST else step.text[: _LONGEST - 4] + "...}"
        cells = [f"  {text}", str(len(step.sites)), str(len(step.declined) or ""), megabytes(step.nbytes)]
        cells.append(decibels(step.sqnr_db))
        if verified:
            cells.append("" if step.parity is None else decibels(step.parity.sqnr_db))
        table.add_row(*cells, f"{step.seconds:.1f} s")
    return table


def _summary(report: Report, options: Options) -> Iterable[tuple[str, str]]:
    before, after = report.file_bytes
    ratios = f"{report.ratio_file:.2f}x (parameters {report.after.ratio_parameters:.2f}x)"
    transfer = f"   transfer {megabytes(report.transfer_bytes)} (gzip)" if report.transfer_bytes else ""
    predicted = "" if report.files else " (predicted)"
    yield (
        "size",
        f"{megabytes(before)} -> {megabytes(after)}{predicted}   {ratios}   "
        f"{report.after.bits_per_weight:.2f} bits/weight{transfer}",
    )
    yield "ops", _operators(report.before, report.after)
    for step in report.steps:
        if step.note:
            yield step.text.partition("{")[0], step.note
    if report.legality is not None:
        yield "target", target_line(report.legality)
    if report.lowest is not None:
        yield "runtime", runtime_line(report.lowest)
    if report.caution:
        yield "caution", report.caution
    if report.products is not None and report.products.said:
        yield "int8", int8_line(report.products)
    for number, line in enumerate(_outputs(report)):
        yield "" if number else "outputs", line
    yield from _latency(report)
    yield from _left(report.float_weights_left)
    for file in report.files:
        yield "wrote", str(file)
    if report.kept is not None:
        yield "passes", f"{report.kept}: one file per pass; open any of them in Netron (https://netron.app)"
    yield (
        "repeat",
        f"--target {report.target} --passes '{report.pipeline}'"
        if options.verify_each
        else f"--passes {_short(report)}",
    )


def target_line(legality: Legality) -> str:
    """What a target takes of a model, and what the CPU provider runs instead.

    >>> from bct_onnx.targets.legality import Refused
    >>> target_line(Legality("qnn", 31, ()))
    'qnn takes all 31 nodes'
    >>> target_line(Legality("qnn", 31, (Refused("a", "Erf", "no kernel", False), Refused("x", "input", "", False))))
    'qnn takes 30 of 31 nodes'
    """
    if not legality.refused:
        return f"{legality.target} takes all {legality.nodes} nodes"
    line = f"{legality.target} takes {legality.taken} of {legality.nodes} nodes"
    if not legality.fallback:
        return line
    operators = _listed([f"{name} {number}" for name, number in legality.fallback.items()], 2 * _LISTED)
    return f"{line}; on the CPU: {operators}"


def runtime_line(lowest: Lowest) -> str:
    """The oldest ONNX Runtime that loads a file, and why no older one does."""
    why = f"   ({lowest.reason})" if lowest.reason else ""
    return f"loads in ONNX Runtime >= {lowest.release.removesuffix('.0')} on CPUs{why}"


def int8_line(products: Products) -> str:
    """What integer products assume of CPUs, and whether this one is such."""
    on_this_cpu = products.here(cpu_features())
    return products.said + (f" ({on_this_cpu})" if on_this_cpu else "")


def _short(report: Report) -> str:
    return f"'{','.join(step.text for step in report.steps)}' --target {report.target}"


def _outputs(report: Report) -> Iterable[str]:
    """The worst output first: a large one must not hide a small one. What says nothing is told apart."""
    parity = report.parity
    if parity is None:
        yield f"not compared: {report.unchecked}"
        return
    name, worst = parity.worst
    others = f" (the worst of {len(parity.telling)}: {name})" if len(parity.telling) > 1 else ""
    if parity.telling:
        top1 = "" if parity.top1 is None else f", top-1 agreement {100 * parity.top1:.1f} %"
        figures = f"SQNR {decibels(worst.sqnr_db)}{others}, cosine {worst.cosine:.4f}{top1}"
        yield f"{figures} over {parity.samples} samples ({parity.source})"
    for name, output in parity.outputs.items():
        if output.silent:
            yield f"{name} says nothing: {output.silent} ({parity.source})"
        elif output.texts is not None:
            yield f"{name}: {output.texts[0]} of {output.texts[1]} texts are equal"


def _latency(report: Report) -> Iterable[tuple[str, str]]:
    if report.elsewhere is not None:
        worst = report.elsewhere.worst[1]
        yield "there", f"{report.timed_in}: SQNR {decibels(worst.sqnr_db)} from the input in ONNX Runtime"
    if report.untimed:
        yield "latency", f"not timed: the input model does not load in {report.timed_in}: {report.untimed}"
    elif report.timings and not report.speeds:
        yield "latency", _not_shown(report.target)
    for timing in report.speeds:
        times = timing.before_ms / timing.after_ms
        load = ""
        if report.load_seconds is not None:
            load = f"   load {report.load_seconds[0]:.2f} -> {report.load_seconds[1]:.2f} s"
        shape = f"b{timing.batch} s{timing.sequence}"
        place = f", both in {report.timed_in}" if report.timed_in else ""
        milliseconds = f"{timing.before_ms:.1f} -> {timing.after_ms:.1f} ms"
        yield "latency", f"{shape}  {milliseconds}  ({times:.2f}x faster, one thread{place}){load}"
        yield "cpu", int8_speed().summary(cpu_features())


def _not_shown(target: str) -> str:
    """Why the times of the CPU provider are kept back, and how to get the target's own."""
    if find(target).engine:
        return f"not timed: {EXTRA}, and the next rewrite runs and times it in OpenVINO too"
    return f"not shown: it was timed on the CPU provider, which says nothing of {target}"


def _left(left: list[tuple[str, int, str]]) -> Iterable[tuple[str, str]]:
    total = sum(nbytes for _, nbytes, _ in left)
    if not left:
        yield "left float", "nothing"
        return
    yield "left float", f"{len(left)} tensors, {megabytes(total)}"
    reasons: dict[str, list[tuple[str, int]]] = {}
    for name, nbytes, reason in left:
        reasons.setdefault(reason, []).append((name, nbytes))
    for reason, tensors in list(reasons.items())[:_LISTED]:
        size = megabytes(sum(nbytes for _, nbytes in tensors))
        example = tensors[0][0] if len(tensors) == 1 else f"{len(tensors)} tensors such as {tensors[0][0]}"
        yield "", f"{size:>9}  {reason}: {example}"
    if len(reasons) > _LISTED:
        yield "", f"and {len(reasons) - _LISTED} more reasons (--verbose, --json)"


def _operators(before: Inventory, after: Inventory) -> str:
    """What has become more or fewer, the greatest change first."""
    old, new = Counter(before.operators), Counter(after.operators)
    changes: list[str] = []
    for name in sorted({*old, *new}, key=lambda name: -abs(new[name] - old[name])):
        if new[name] != old[name]:
            changes.append(f"{name} {old[name]}->{new[name]}")
    return _listed(changes, 2 * _LISTED) or "unchanged"


def _listed(items: list[str], most: int) -> str:
    others = f", and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + others


def _print_details(out: Console, steps: tuple[Step, ...]) -> None:
    for step in steps:
        for site in step.sites:
            error = f"  {decibels(site.error.sqnr_db)}" if site.error is not None and site.error.ratio else ""
            out.print(f"  {step.text.split('{')[0]}: {site.name}  {site.note}{error}")
        for declined in step.declined:
            out.print(f"  {step.text.split('{')[0]} declined {declined.name}: {declined.reason}")
