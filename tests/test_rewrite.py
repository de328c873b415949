"""The main job as a function: what goes in, what comes out, and what is never left behind."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bct_onnx import __version__, check, registry
from bct_onnx.base import Applied, Pass, Site
from bct_onnx.errors import GateError, InputModelError, TargetError, UsageError
from bct_onnx.graph import load, provenance
from bct_onnx.pipeline import Pipeline
from bct_onnx.rewriting import PIPELINE, SOURCE, VERSION, Options, plan, rewrite
from bct_onnx.runtime.session import session
from passes.clean_up import CleanUp
from passes.quantize_weights import QuantizeWeights
from tests.graph import handmade
from tests.runtime import tiny

STAGES = (*(one.name for one in plan("w4a8", "ort-cpu")), "done", "writing")


@dataclasses.dataclass(frozen=True)
class Negate(Pass):
    """A pass of a user's own: x @ w becomes x @ -w, which is wrong and said to be exact."""

    name: ClassVar[str] = "negate"

    def apply(self, model: ir.Model) -> Applied:
        (node,) = (node for node in model.graph if node.op_type == "MatMul")
        made = ir.node("Neg", [node.outputs[0]])
        model.graph.insert_after(node, made)
        node.outputs[0].replace_all_uses_with(made.outputs[0], replace_graph_outputs=True)
        made.replace_input_with(0, node.outputs[0])
        node.outputs[0].name, made.outputs[0].name = "product", "y"
        made.outputs[0].type, made.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
        return Applied(model, [Site("y")])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A matrix large enough to be quantized, in a folder of its own."""
    folder = tmp_path / "in"
    folder.mkdir()
    weight = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    text = """<ir_version: 10, opset_import: ["" : 21], producer_name: "maker", model_version: 7, doc_string: "about">
        net (float[batch, tokens, 64] x) => (float[batch, tokens, 32] y) { y = MatMul (x, w) }"""
    proto = handmade.model(text, w=weight)
    onnx.helper.set_model_props(proto, {"license": "CC0"})
    return handmade.write(proto, folder / "model.onnx")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A place for the result, in a folder of its own."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "model.bct.onnx"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
    assert {step.text for step in report.steps} >= {"lower-ort-cpu", "clean-up"}
    session(out, optimize="disabled")


def test_a_model_in_memory_is_changed_in_place(source: Path) -> None:
    model = load.load(source)
    report = rewrite(model)
    assert report.files == () and report.file_bytes[1] > 0 and report.parity is not None
    assert PIPELINE in model.metadata_props and SOURCE not in model.metadata_props
    assert any(node.op_type == "MatMulIntegerToFloat" for node in model.graph)


def test_a_pass_of_ones_own(source: Path, out: Path) -> None:
    report = rewrite(source, (Negate(),), target="portable", options=Options(out))
    assert report.pipeline == "negate,clean-up" and report.parity is not None and report.parity.cosine < -0.99
    made = [node for node in load.load(out).graph if node.op_type == "Neg"]
    assert made[0].metadata_props[provenance.PASS] == "negate"


def test_a_broken_promise_is_found(source: Path, out: Path) -> None:
    with pytest.raises(GateError, match="negate moved the outputs"):
        rewrite(source, (Negate(),), options=Options(out, verify_each=True))
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("preset", registry.PRESETS)
def test_every_preset_on_the_bundled_model(preset: str, bundled_model: Path, out: Path) -> None:
    report = rewrite(bundled_model, preset, options=Options(out, verify_each=True))
    least = {"lift": (0.99, 60), "w8a8": (3.6, 24), "w4": (6.5, 17), "w4a8": (6.5, 17), "w3a8": (7.5, 12)}
    least |= {"bct-plus": (6.5, 17), "fast": (6.5, 17), "bct": (6.5, 12)}
    ratio, sqnr = least.get(preset, (6.5, 9))
    assert report.after.ratio_parameters > ratio and report.parity is not None and report.parity.sqnr_db > sqnr
    for step in report.steps:
        assert step.parity is not None and step.parity.finite


@pytest.mark.parametrize("target", registry.TARGETS)
def test_a_dry_run_writes_nothing_and_predicts_the_size(target: str, bundled_model: Path, out: Path) -> None:
    dry = rewrite(bundled_model, target=target, options=Options(out, dry_run=True))
    assert list(out.parent.iterdir()) == [] and dry.files == () and dry.parity is not None
    real = rewrite(bundled_model, target=target, options=Options(out))
    assert dry.file_bytes[1] == pytest.approx(real.file_bytes[1], rel=0.01)


def test_a_dry_run_needs_no_output(source: Path) -> None:
    assert rewrite(source, options=Options(dry_run=True)).file_bytes[1] > 0


def test_nothing_changed_is_an_error(tmp_path: Path, out: Path) -> None:
    path = handmade.write(handmade.model(), tmp_path / "small.onnx")
    with pytest.raises(GateError, match="nothing was changed") as error:
        rewrite(path, "quantize-weights", target="portable", options=Options(out))
    assert error.value.exit_code == 1 and "fewer than 1024 values" in error.value.why
    assert list(out.parent.iterdir()) == []


def test_our_own_output_is_not_quantized_again(source: Path, out: Path) -> None:
    rewrite(source, options=Options(out))
    with pytest.raises(InputModelError, match="already quantized") as error:
        rewrite(out, options=Options(out.with_name("again.onnx")))
    assert "bct-onnx with" in error.value.why


@pytest.mark.parametrize("made", ["qdq", "matmulnbits"])
def test_what_others_have_quantized_is_refused(made: str, tmp_path: Path) -> None:
    texts = {
        "qdq": "y = MatMul (x, d)  d = DequantizeLinear (q, s)",
        "matmulnbits": "y = com.microsoft.MatMulNBits <K = 64, N = 32, bits = 4, block_size = 32> (x, q, s)",
    }
    body = "  ".join(reversed(texts[made].split("  ")))
    head = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft": 1]>'
    q = np.ones((64, 32), np.int8) if made == "qdq" else np.ones((32, 2, 16), np.uint8)
    s = np.float32(0.1) if made == "qdq" else np.ones(64, np.float32)
    proto = handmade.model(f"{head} g (float[n, 64] x) => (float[n, 32] y) {{ {body} }}", q=q, s=np.asarray(s))
    path = handmade.write(proto, tmp_path / "q.onnx")
    with pytest.raises(InputModelError, match="already quantized") as error:
        rewrite(path)
    assert "start from the float export" in error.value.fix
    with pytest.raises(GateError):  # a pipeline that quantizes nothing may run on it
        rewrite(path, "fuse-gelu", target="portable")


def test_equal_bytes_twice_and_from_the_spelled_pipeline(bundled_model: Path, out: Path) -> None:
    digests = set()
    text: str = "w4a8"
    for number in range(3):
        path = out.with_name(f"{number}.onnx")
        report = rewrite(bundled_model, text, options=Options(path, check=False))
        digests.add(digest(path))
        if number == 1:
            text = report.pipeline
            assert registry.parse(text).spelled() == text
    assert len(digests) == 1


def test_the_input_is_not_touched(bundled_model: Path, out: Path) -> None:
    before = digest(bundled_model), bundled_model.stat().st_mtime_ns
    rewrite(bundled_model, options=Options(out, keep_passes=out.with_name("kept")))
    assert (digest(bundled_model), bundled_model.stat().st_mtime_ns) == before


@pytest.mark.parametrize("preset", ["w4a8", "w4"])
def test_names_of_inputs_outputs_and_dimensions_stay(preset: str, bundled_model: Path, out: Path) -> None:
    rewrite(bundled_model, preset, options=Options(out, check=False))
    before, after = onnx.load(bundled_model), onnx.load(out)
    assert list(before.graph.input) == list(after.graph.input)
    assert [(one.name, one.type) for one in before.graph.output] == [(one.name, one.type) for one in after.graph.output]


def test_metadata_is_kept_and_stamped(source: Path, out: Path) -> None:
    report = rewrite(source, options=Options(out))
    proto = onnx.load(out)
    props = {prop.key: prop.value for prop in proto.metadata_props}
    assert (proto.producer_name, proto.model_version, proto.doc_string) == ("maker", 7, "about")
    assert props["license"] == "CC0"
    assert props[PIPELINE] == report.pipeline and props[VERSION] == __version__
    wanted = hashlib.blake2b(source.read_bytes(), digest_size=16).hexdigest()
    assert props[SOURCE] == f"blake2b:{wanted}"


def test_every_node_tells_where_it_comes_from(bundled_model: Path, out: Path) -> None:
    before = {node.name for node in load.load(bundled_model).graph.all_nodes()}
    rewrite(bundled_model, options=Options(out, check=False))
    after = list(load.load(out).graph.all_nodes())
    assert len({node.name for node in after}) == len(after)
    for node in after:
        assert node.name in before or node.metadata_props[provenance.PASS] in registry.PASSES
    lowered = [node for node in after if node.op_type in ("QGemm", "IntegerMaskedAttentionOrtCpu")]
    assert lowered and all(set(node.metadata_props[provenance.REPLACED].split()) & before for node in lowered)


def test_kept_passes_load_and_share_their_weights(bundled_model: Path, out: Path) -> None:
    kept = out.parent / "kept"
    report = rewrite(bundled_model, options=Options(out, keep_passes=kept, check=False))
    assert report.kept == kept
    names = ["input", *(step.text.split("{")[0] for step in report.steps)]
    files = sorted(kept.glob("*.onnx"))
    assert [file.name for file in files] == [f"{number:02d}-{name}.onnx" for number, name in enumerate(names)]
    for file in files:
        assert file.stat().st_size < 400_000
        session(file)
    assert (kept / "weights.data").stat().st_size < 2 * bundled_model.stat().st_size


@pytest.mark.parametrize("wanted", [False, True, None])
def test_checking_is_a_choice(wanted: bool | None, source: Path, out: Path) -> None:
    report = rewrite(source, options=Options(out, check=wanted))
    assert (report.parity is None) == (wanted is False) and bool(report.unchecked) == (wanted is False)
    assert bool(report.timings) == (wanted is not False)


def test_large_models_are_not_run_unless_asked_for(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "LIMIT", 1000)
    report = rewrite(source, options=Options(out))
    assert report.parity is None and "--check" in report.unchecked
    assert rewrite(source, options=Options(out, force=True, check=True)).parity is not None


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_run_leaves_nothing(stage: str, kind: type[BaseException], source: Path, out: Path) -> None:
    told: list[str] = []

    def progress(label: str, done: int, total: int) -> None:
        told.append(label)
        if label == stage:
            raise kind

    kept = out.parent / "kept" if kind is KeyboardInterrupt else None
    with pytest.raises(kind):
        rewrite(source, options=Options(out, progress=progress, keep_passes=kept))
    assert (
        told[-1] == stage
        and list(out.parent.iterdir()) == []
        and [file.name for file in source.parent.iterdir()] == ["model.onnx"]
    )


def test_an_interrupted_run_leaves_the_old_result(source: Path, out: Path) -> None:
    out.write_bytes(b"old")

    def progress(label: str, done: int, total: int) -> None:
        if label == "writing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rewrite(source, options=Options(out, force=True, progress=progress))
    assert out.read_bytes() == b"old" and len(list(out.parent.iterdir())) == 1


def test_a_result_that_does_not_load_is_not_published(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> dict[str, Any]:
        raise TargetError("ONNX Runtime cannot load the model")

    monkeypatch.setattr("bct_onnx.rewriting.outcome", refuse)
    with pytest.raises(TargetError):
        rewrite(source, options=Options(out))
    assert list(out.parent.iterdir()) == []


def test_snapshots_survive_an_error(source: Path, out: Path) -> None:
    """They are what shows where it went wrong."""
    kept = out.parent / "kept"
    with pytest.raises(GateError):
        rewrite(source, (Negate(),), options=Options(out, verify_each=True, keep_passes=kept))
    assert [file.name for file in sorted(kept.glob("*.onnx"))] == ["00-input.onnx", "01-negate.onnx"]


@pytest.mark.parametrize(
    ("pipeline", "target", "said"),
    [
        ("w4a9", "ort-cpu", "did you mean 'w4a8'"),
        ("quantize-wieghts,clean-up", "ort-cpu", "did you mean 'quantize-weights'"),
        ("w4a8", "ort-cup", "did you mean 'ort-cpu'"),
        ((), "portable", "no passes"),
        ("quantize-weights{bits=5}", "portable", "bits=5"),
        ("quantize-embeddings{block=0}", "portable", "block=0"),
    ],
)  # fmt: skip
def test_wrong_words(pipeline: Any, target: str, said: str, source: Path) -> None:
    with pytest.raises(UsageError) as error:
        rewrite(source, pipeline, target=target)
    assert said in str(error.value)


def test_the_lowering_runs_once(source: Path) -> None:
    names = [one.name for one in plan("quantize-weights,lower-ort-cpu", "ort-cpu")]
    assert names.count("lower-ort-cpu") == 1 and names[:2] == ["quantize-weights", "lower-ort-cpu"]
    assert names[-1] == "clean-up"
    assert str(plan(Pipeline((QuantizeWeights(),)), "portable")) == "quantize-weights,clean-up"
    assert str(plan("quantize-weights,clean-up", "portable")) == "quantize-weights,clean-up"
    whole = [one.name for one in registry.lowering("ort-cpu")]
    assert [one.name for one in plan("quantize-weights,clean-up", "ort-cpu")][2:] == whole
    assert [one.name for one in plan(",".join(whole), "ort-cpu")] == whole


def test_figures_are_measured(source: Path, out: Path) -> None:
    report = rewrite(source, "quantize-weights{scale=float16},clean-up", target="portable", options=Options(out))
    (step, _) = report.steps
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
