"""The main job as a function: what goes in, and what it reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bct_onnx import reference, registry
from bct_onnx.graph import load
from bct_onnx.pipeline import Pipeline
from bct_onnx.registry import complete
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.session import session
from bct_onnx.stamps import PIPELINE, SOURCE
from passes.clean_up import CleanUp
from passes.quantize_weights import QuantizeWeights
from tests.graph import handmade
from tests.runtime import tiny
from tests.whole_models import VERIFIED, Compressed


@pytest.mark.parametrize(
    "pipeline",
    [
        "w4a8",
        "quantize-weights",
        "normalize,quantize-weights{bits=8}",
        registry.preset("w8a8"),
        (QuantizeWeights(), CleanUp()),
        [QuantizeWeights(bits=3)],
    ],
    ids=["preset", "pass", "text", "Pipeline", "tuple", "list"],
)
def test_ways_to_say_what_to_do(pipeline: Any, source: Path, out: Path) -> None:
    report = rewrite(source, pipeline, options=Options(out))
    assert report.files == (out,) and report.file_bytes == (source.stat().st_size, out.stat().st_size)
    assert report.ratio_file > 1.2 and report.parity is not None and report.parity.sqnr_db > 10
    assert {step.text for step in report.steps} >= {"lower-weights", "clean-up"}
    session(out, optimize="disabled")


def test_a_model_in_memory_is_changed_in_place(source: Path) -> None:
    model = load.load(source)
    report = rewrite(model)
    assert report.files == () and report.file_bytes[1] > 0 and report.parity is not None
    assert PIPELINE in model.metadata_props and SOURCE not in model.metadata_props
    assert any(node.op_type == "MatMulIntegerToFloat" for node in model.graph)


@pytest.mark.parametrize("preset", registry.PRESETS)
def test_every_preset_on_the_bundled_model(preset: str, compressed: Callable[..., Compressed]) -> None:
    report = compressed(preset).report
    least = {"lift": (0.99, 60), "w8a8": (3.6, 24), "w4": (6.5, 17), "w4a8": (6.5, 17), "w3a8": (7.5, 12)}
    least |= {"bct-plus": (6.5, 17), "fast": (6.5, 17), "bct": (6.5, 12), "npu": (3.6, 30)}
    ratio, sqnr = least.get(preset, (6.5, 9))
    assert report.after.ratio_parameters > ratio and report.parity is not None and report.parity.sqnr_db > sqnr
    assert report.parity.finite
    for step in report.steps:
        assert (step.parity is not None and step.parity.finite) or preset not in VERIFIED


def test_every_pass_of_a_preset_is_verified() -> None:
    verified = {one.name for preset in VERIFIED for one in registry.preset(preset)}
    assert verified == {one.name for preset in registry.PRESETS for one in registry.preset(preset)}


def test_the_lowering_runs_once(source: Path) -> None:
    names = [one.name for one in complete("quantize-weights,lower-weights", "ort-cpu")]
    assert names.count("lower-weights") == 1 and names[:2] == ["quantize-weights", "lower-weights"]
    assert names[-1] == "clean-up"
    lowered = complete(Pipeline((QuantizeWeights(),)), "portable")
    assert str(lowered) == f"quantize-weights,{registry.lowering('portable')}"
    assert str(complete("quantize-weights,clean-up", "portable")).endswith(f",clean-up,{registry.lowering('portable')}")
    whole = [one.name for one in registry.lowering("ort-cpu")]
    assert [one.name for one in complete("quantize-weights,clean-up", "ort-cpu")][2:] == whole
    assert [one.name for one in complete(",".join(whole), "ort-cpu")] == whole


@pytest.mark.parametrize("target", ["ort-cpu", "portable"])  # tests/targets writes files for the others
def test_a_dry_run_writes_nothing_and_predicts_the_size(
    target: str, bundled_model: Path, compressed: Callable[..., Compressed], out: Path
) -> None:
    dry = rewrite(bundled_model, target=target, options=Options(out, dry_run=True))
    assert list(out.parent.iterdir()) == [] and dry.files == () and dry.parity is not None
    real = compressed(registry.default_preset(target), target).report
    assert dry.file_bytes[1] == pytest.approx(real.file_bytes[1], rel=0.01)


def test_a_dry_run_needs_no_output(source: Path) -> None:
    assert rewrite(source, options=Options(dry_run=True)).file_bytes[1] > 0


@pytest.mark.parametrize("wanted", [False, True, None])
def test_checking_is_a_choice(wanted: bool | None, source: Path, out: Path) -> None:
    report = rewrite(source, options=Options(out, check=wanted))
    assert (report.parity is None) == (wanted is False) and bool(report.unchecked) == (wanted is False)
    assert bool(report.timings) == (wanted is not False)


def test_large_models_are_not_run_unless_asked_for(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "LIMIT", 1000)
    report = rewrite(source, options=Options(out))
    assert report.parity is None and "--check" in report.unchecked
    assert rewrite(source, options=Options(out, force=True, check=True)).parity is not None


def test_figures_are_measured(source: Path, out: Path) -> None:
    report = rewrite(source, "quantize-weights{scale=float16},clean-up", target="portable", options=Options(out))
    step, *_ = report.steps
    assert step.sqnr_db == pytest.approx(20, abs=2) and report.changed == sum(len(one.sites) for one in report.steps)
    assert report.before.parameters == report.after.parameters == 64 * 32
    assert report.after.bits_per_weight == pytest.approx(4.5, abs=0.1)
    assert report.after.ratio_parameters == pytest.approx(32 / report.after.bits_per_weight)
    assert report.float_weights_left == [] and report.load_seconds is not None and report.transfer_bytes


def test_weights_of_a_few_values(tmp_path: Path) -> None:
    path = handmade.write(tiny.encoder(vocabulary=200), tmp_path / "encoder.onnx")
    text = "normalize,quantize-embeddings{minimum=1},quantize-weights{minimum=1},quantize-activations"
    report = rewrite(path, text)
    assert report.parity is not None and report.parity.sqnr_db > 8 and not report.float_weights_left


def test_public_names_are_those_of_the_package() -> None:
    import bct_onnx

    assert bct_onnx.rewrite is rewrite
    assert bct_onnx.Options is Options
    with pytest.raises(AttributeError, match="rewrit"):
        _ = bct_onnx.rewrites
