"""Every golden case: the pass gives the graph that was written down, and the outputs stay what they were."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bct_onnx.base import Applied
from bct_onnx.errors import TargetError
from bct_onnx.graph import kernels
from bct_onnx.graph.canonical import canonical_text
from bct_onnx.graph.save import embedded
from bct_onnx.graph.tensors import Array
from bct_onnx.runtime.feeds import Feeds, random_feeds
from bct_onnx.runtime.session import Optimize, run, session
from bct_onnx.runtime.vocabulary import vocabulary
from tests import versions
from tests.passes import golden
from tests.passes.golden import SAME, Case

UPDATE = os.environ.get("BCT_UPDATE_GOLDEN")
LEVELS: tuple[Optimize, ...] = ("disabled", "all")


@pytest.mark.parametrize("case", golden.updated_cases(UPDATE) if UPDATE else golden.cases(), ids=str)
def test_golden(case: Case) -> None:
    model = golden.prepared(case)
    before = canonical_text(model)
    original = ir.to_proto(model)
    applied = golden.apply(case, model)
    _check_graph(case, model, before, applied)
    _check_reasons(case, applied)
    assert bool(applied.sites) == (case.after != SAME), f"{case}: sites are {applied.sites}"
    proto = embedded(model)
    onnx.checker.check_model(proto, full_check=True)
    if case.after != SAME:  # else it is the same model, to the last constant
        _check_outputs(case, original, proto)


@pytest.mark.parametrize("file", sorted(golden.FOLDER.glob("*.onnxtxt")), ids=lambda file: file.stem)
def test_file_is_written_as_it_is_read(file: Path, tmp_path: Path) -> None:
    """So that an update changes nothing but what the passes changed."""
    copy = tmp_path / file.name
    golden.write(copy, golden.read(file))
    assert copy.read_text(encoding="utf-8") == file.read_text(encoding="utf-8")


def _check_graph(case: Case, model: ir.Model, before: str, applied: Applied) -> None:
    got = canonical_text(model)
    told = "".join(f"\ndeclined: {one.name}: {one.reason}" for one in applied.declined)
    if case.after.startswith("ops:"):
        wanted = dict(pair.rsplit("=", 1) for pair in case.after.removeprefix("ops:").split())
        assert golden.histogram(model) == {op: int(count) for op, count in wanted.items()}, f"{case}{told}\n{got}"
        return
    expected = before if case.after == SAME else canonical_text(case.model(case.after))
    diff = "\n".join(
        difflib.unified_diff(expected.splitlines(), got.splitlines(), "written down", "from the pass", "", "", 99)
    )
    assert got == expected, f"{case}{told}\n{diff}"


def _check_reasons(case: Case, applied: Applied) -> None:
    reasons = [f"{one.name}: {one.reason}" for one in applied.declined]
    assert case.after != SAME or case.declined or not reasons, f"{case}: say '# declined:' for {reasons}"
    for wanted in case.declined:
        assert any(wanted in reason for reason in reasons), f"{case}: no reason contains {wanted!r}: {reasons}"


def _check_outputs(case: Case, original: onnx.ModelProto, proto: onnx.ModelProto) -> None:
    source = ir.from_proto(original)
    feeds = random_feeds(
        source,
        vocab=vocabulary(source),
        batch=case.feed("batch", 2),
        sequence=case.feed("sequence", 4),
        seed=case.feed("seed", 0),
    )
    reference = _reference(case, original, feeds)
    if reference is None:
        return
    rewritten = golden.runnable(proto)
    for level in LEVELS:
        outputs = run(session(rewritten, optimize=level), feeds)
        for want, got in zip(reference, outputs, strict=True):
            _compare(case, want, got, level)


def _reference(case: Case, original: onnx.ModelProto, feeds: Feeds) -> list[Array] | None:
    """Outputs of the model as it came; None on an old runtime that computes something else or lacks an operator."""
    since = case.directive("since", kernels.LOWEST).split()[0]
    if not versions.has(since):
        return None
    try:
        return run(session(golden.runnable(original), optimize="disabled"), feeds)
    except TargetError:
        if golden.is_oldest_runtime():
            return None
        raise


def _compare(case: Case, want: Array, got: Array, level: str) -> None:
    bound = case.directive("bound", "1e-5")
    assert want.dtype == got.dtype and want.shape == got.shape, (
        f"{case}: {want.dtype}{want.shape}, {got.dtype}{got.shape}"
    )
    if bound == "exact" or want.dtype.kind in "biuOSU":
        np.testing.assert_array_equal(got, want, err_msg=f"{case}, {level}")
    elif bound.endswith("dB"):
        noise = np.square(got.astype(np.float64) - want).sum()
        sqnr = 10 * np.log10(np.square(want.astype(np.float64)).sum() / max(noise, 1e-300))
        assert sqnr >= float(bound.removesuffix("dB")), f"{case}, {level}: SQNR {sqnr:.1f} dB, not {bound}"
    else:
        np.testing.assert_allclose(got, want, rtol=0, atol=float(bound), err_msg=f"{case}, {level}")
