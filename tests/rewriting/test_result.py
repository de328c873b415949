"""What comes out of a rewrite: equal bytes, the model's own names and metadata, the origin of each node, snapshots."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from bct_onnx import __version__, registry
from bct_onnx.graph import load, provenance
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.session import session
from bct_onnx.stamps import PIPELINE, SOURCE, VERSION
from tests.passes.golden import is_oldest_runtime
from tests.whole_models import Compressed

Compressing = Callable[..., Compressed]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_equal_bytes_twice_and_from_the_spelled_pipeline(
    bundled_model: Path, compressed: Compressing, out: Path
) -> None:
    """With a check (the first) and without."""
    first = compressed("w4a8")
    assert registry.parse(first.report.pipeline).full_text() == first.report.pipeline
    for number, text in enumerate(("w4a8", first.report.pipeline)):
        again = out.with_name(f"{number}.onnx")
        rewrite(bundled_model, text, options=Options(again, check=False))
        assert digest(again) == digest(first.file)


@pytest.mark.parametrize("preset", registry.PRESETS)
def test_names_of_inputs_outputs_and_dimensions_stay(preset: str, bundled_model: Path, compressed: Compressing) -> None:
    before, after = onnx.load(bundled_model), onnx.load(compressed(preset).file)
    assert list(before.graph.input) == list(after.graph.input)
    assert [(one.name, one.type) for one in before.graph.output] == [(one.name, one.type) for one in after.graph.output]


def test_metadata_is_kept_and_stamped(source: Path, out: Path) -> None:
    report = rewrite(source, options=Options(out))
    proto = onnx.load(out)
    props = {prop.key: prop.value for prop in proto.metadata_props}
    assert (proto.producer_name, proto.model_version, proto.doc_string) == ("maker", 7, "about")
    assert props["license"] == "CC0"
    assert props[PIPELINE] == report.pipeline and props[VERSION] == __version__
    wanted = hashlib.sha256(source.read_bytes()).hexdigest()
    assert props[SOURCE] == f"sha256:{wanted}"


def test_every_node_tells_where_it_comes_from(bundled_model: Path, rewritten: Callable[..., ir.Model]) -> None:
    before = {node.name for node in load.load(bundled_model).graph.all_nodes()}
    after = list(rewritten("bct-plus").graph.all_nodes())
    assert len({node.name for node in after}) == len(after)
    for node in after:
        assert node.name in before or node.metadata_props[provenance.PASS] in registry.PASSES
    lowered = [node for node in after if node.op_type in ("MatMulIntegerToFloat", "Attention")]
    assert lowered and all(set(node.metadata_props[provenance.REPLACED].split()) & before for node in lowered)


def test_kept_passes_load_and_share_their_weights_and_the_input_is_not_touched(bundled_model: Path, out: Path) -> None:
    before = digest(bundled_model), bundled_model.stat().st_mtime_ns
    kept = out.parent / "kept"
    report = rewrite(bundled_model, options=Options(out, keep_passes=kept))
    assert (digest(bundled_model), bundled_model.stat().st_mtime_ns) == before
    assert report.kept == kept
    names = ["input", *(step.text.split("{")[0] for step in report.steps)]
    every = [f"{number:02d}-{name}.onnx" for number, name in enumerate(names)]
    idle = [place for place, step in zip(every[1:], report.steps, strict=True) if not step.sites]
    if is_oldest_runtime():  # there every file is kept as this pass leaves it, so that it loads
        idle += [place for place in every if "lower-quantize" in place]
    files = sorted(kept.glob("*.onnx"))
    assert [file.name for file in files] == [name for name in every if name not in idle and "calibrate" not in name]
    index = (kept / "index.md").read_text(encoding="utf-8")
    assert idle and all(f"| {number:02d} | " in index for number in range(len(names)))
    for file in files:
        assert file.stat().st_size < 400_000
        session(file)
    assert (kept / "weights.data").stat().st_size < 2 * bundled_model.stat().st_size
