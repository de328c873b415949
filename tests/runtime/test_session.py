from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bct_onnx.errors import InputModelError, TargetError, UsageError
from bct_onnx.runtime import session as module
from bct_onnx.runtime.feeds import random_feeds
from bct_onnx.runtime.session import run, session, short_message
from tests.runtime import tiny


def test_path_bytes_and_model_in_memory_are_the_same(tmp_path: Path) -> None:
    proto = tiny.encoder()
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    sessions = [session(path), session(str(path)), session(proto.SerializeToString()), session(ir.from_proto(proto))]
    feeds = random_feeds(sessions[0], batch=2, sequence=5, vocab=12)
    first, *others = [run(each, feeds)[0] for each in sessions]
    assert first.shape == (2, 5, 8)
    assert all(np.array_equal(first, other) for other in others)


def test_model_in_memory_with_external_data_runs_and_stays_lazy(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(tiny.encoder(), path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    model = ir.load(path)
    feeds = random_feeds(model, vocab=12)
    assert np.array_equal(run(session(model), feeds)[0], run(session(path), feeds)[0])
    assert all(isinstance(v.const_value, ir.ExternalTensor) for v in model.graph.initializers.values())


def test_model_in_memory_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IN_MEMORY_LIMIT", 100)
    with pytest.raises(UsageError, match="cannot be run from memory"):
        session(ir.from_proto(tiny.encoder()))


def test_optimization_levels_keep_the_result() -> None:
    data = tiny.encoder().SerializeToString()
    feeds = random_feeds(session(data), vocab=12)
    plain = run(session(data, optimize="disabled"), feeds)[0]
    for level in ("basic", "extended", "all"):
        np.testing.assert_allclose(run(session(data, optimize=level), feeds)[0], plain, rtol=1e-5)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputModelError, match="no such model file"):
        session(tmp_path / "none.onnx")


def test_what_ort_refuses(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.onnx"
    path.write_text("this is not a model")
    with pytest.raises(TargetError) as caught:
        session(path)
    assert str(path) in caught.value.where
    assert "[ONNXRuntimeError]" not in caught.value.why and caught.value.why
    assert caught.value.fix
    assert capfd.readouterr() == ("", "")


def test_unknown_operator_names_it() -> None:
    node = onnx.helper.make_node("NoSuchOperator", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(TargetError, match="cannot load") as caught:
        session(ir.from_proto(model))
    assert "NoSuchOperator" in caught.value.why
    assert caught.value.where == "graph 'g'"


def test_failing_run_is_explained_and_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    target = session(tiny.encoder().SerializeToString())
    feeds = random_feeds(target, vocab=12)
    feeds["input_ids"] += 1000
    with pytest.raises(TargetError, match="cannot run") as caught:
        run(target, feeds)
    assert "out of data bounds" in caught.value.why
    assert "input_ids int64[1, 16]" in caught.value.where
    assert capfd.readouterr() == ("", "")


def test_missing_feed_and_surplus_feed() -> None:
    target = session(tiny.encoder().SerializeToString())
    feeds = random_feeds(target, vocab=12)
    assert run(target, feeds | {"surplus": np.zeros(3)})[0].shape == (1, 16, 8)
    del feeds["attention_mask"]
    with pytest.raises(UsageError, match="no value for model input 'attention_mask'"):
        run(target, feeds)


def test_chosen_outputs() -> None:
    target = session(tiny.decoder().SerializeToString())
    (logits,) = run(target, random_feeds(target, sequence=4, vocab=12), ["logits"])
    assert logits.shape == (1, 4, 12)


def test_short_message_is_short() -> None:
    assert len(short_message(RuntimeError("x" * 1000))) == 300
    assert short_message(RuntimeError("")) == "RuntimeError"
    assert short_message(RuntimeError("/a/b/c.cc:12 void f() failed")) == "void f() failed"
