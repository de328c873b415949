"""What a rewrite refuses, and what is never left behind when it stops."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bct_onnx.errors import GateError, InputModelError, TargetError, UsageError
from bct_onnx.recipe import read as read_recipe
from bct_onnx.registry import complete
from bct_onnx.rewriting import Options, rewrite
from tests.graph import handmade

STAGES = (*(one.name for one in complete("w4a8", "ort-cpu")), "done", "writing")


@pytest.mark.parametrize(
    ("pipeline", "target", "said"),
    [
        ("w4a9", "ort-cpu", "did you mean 'w4a8'"),
        ("quantize-wieghts,clean-up", "ort-cpu", "did you mean 'quantize-weights'"),
        ("w4a8", "ort-cup", "did you mean 'ort-cpu'"),
        ((), "portable", "no passes"),
        ("quantize-weights{bits=7}", "portable", "bits=7"),
        ("quantize-embeddings{block=0}", "portable", "block=0"),
    ],
)  # fmt: skip
def test_wrong_words(pipeline: Any, target: str, said: str, source: Path) -> None:
    with pytest.raises(UsageError) as error:
        rewrite(source, pipeline, target=target)
    assert said in str(error.value)


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


@pytest.mark.parametrize("made", ["qdq", "matmulnbits", "dynamic", "a part"])
def test_what_others_have_quantized_is_refused(made: str, tmp_path: Path) -> None:
    texts = {
        "qdq": "y = MatMul (x, d)  d = DequantizeLinear (q, s)",
        "dynamic": "y = Mul (f, p)  f = Cast <to = 1> (i)  i = MatMulInteger (c, q, o)"
        "  c, p, o = DynamicQuantizeLinear (x)",
        "a part": "y = MatMul (h, d)  h = MatMul (x, w)  d = DequantizeLinear (q, s)",
        "matmulnbits": "y = com.microsoft.MatMulNBits <K = 64, N = 32, bits = 4, block_size = 32> (x, q, s)",
    }
    body = "  ".join(reversed(texts[made].split("  ")))
    head = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft": 1]>'
    q = np.ones((32, 2, 16), np.uint8) if made == "matmulnbits" else np.ones((64, 32), np.int8)
    s = np.ones(64, np.float32) if made == "matmulnbits" else np.float32(0.1)
    arrays = {"q": q, "s": np.asarray(s), "w": np.eye(64, dtype=np.float32)}
    used = {name: array for name, array in arrays.items() if re.search(rf"\b{name}\b", body)}
    proto = handmade.model(f"{head} g (float[n, 64] x) => (float[n, 32] y) {{ {body} }}", **used)
    path = handmade.write(proto, tmp_path / "q.onnx")
    with pytest.raises(InputModelError, match="already quantized") as error:
        rewrite(path)
    assert "start from the float export" in error.value.fix
    with pytest.raises(GateError):  # a pipeline that quantizes nothing may run on it
        rewrite(path, "fuse-gelu", target="portable")


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


def test_sizes_that_a_target_misses_are_given_by_what_the_message_says(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21]> g (float[rows,64] x) => (float[rows,64] y)
        { h = Tanh (x)  m = MatMul (h, w)  y = Relu (m) }"""
    )
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    source = tmp_path / "in.onnx"
    onnx.save(proto, source)
    with pytest.raises(TargetError) as caught:
        rewrite(source, target="qnn")
    assert "[options.fix-shapes] dims = ['*batch*=1', '*seq*=128', 'rows=SIZE']" in (caught.value.fix or "")
    recipe = tmp_path / "sizes.toml"
    recipe.write_text("target = 'qnn'\n[options.fix-shapes]\ndims = ['*batch*=1', '*seq*=128', 'rows=8']\n")
    pipeline, target = read_recipe(recipe)
    report = rewrite(source, pipeline, target=target)
    assert report.parity is not None and report.parity.sqnr_db > 30
