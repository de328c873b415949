"""What a rewrite keeps whatever it does: the interface of the model and its metadata; and every node has an origin."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bct_onnx import registry
from bct_onnx.graph.load import load
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.session import run, session
from tests.examples import examples
from tests.fuzz import models
from tests.graph import handmade
from tests.interface import differences, unfit_versions, untraced

# All that UTF-8 can encode: without surrogates. Named by its codec, hypothesis would try it on every character first.
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)

BODY = """<ir_version: 10, opset_import: ["" : {opset}]>
    net (int64[batch, sequence] input_ids, float[batch, sequence, 64] extra)
        => (float[batch, sequence, 32] y, float[batch, sequence, 64] "second output",
            float[batch, sequence, 64] extra) {{
        e = Gather (table, input_ids)
        h = Add (e, extra)
        half = Constant <value = float {{0.5}}> ()
        t = Sigmoid (h)
        "second output" = Mul (h, t)
        y = MatMul ("second output", w)
    }}"""
TABLE = np.random.default_rng(1).standard_normal((40, 64)).astype(np.float32)
WEIGHT = np.random.default_rng(2).standard_normal((64, 32)).astype(np.float32)


def check(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    assert differences(before, after) == []
    assert untraced(before, after) == []
    assert unfit_versions(before, after) == []


TRAINED = (("trained", "bct-plus", "ort-cpu"), ("trained", "bct", "portable"), ("trained", "npu", "ort-cpu"))
SMALL = tuple(("decoder", preset, "ort-cpu") for preset in registry.PRESETS if preset != "npu")  # it halves no floats


@pytest.mark.parametrize(
    ("start", "preset", "target"), [*(pytest.param(*case, marks=pytest.mark.whole) for case in TRAINED), *SMALL]
)
def test_every_preset_keeps_the_interface(start: str, preset: str, target: str, tmp_path: Path) -> None:
    before = named(models.model(start))
    source = handmade.write(before, tmp_path / "in.onnx")
    rewrite(source, preset, target=target, options=Options(tmp_path / "out.onnx", check=False))
    check(before, onnx.load(tmp_path / "out.onnx"))


@pytest.mark.parametrize("target", ["ort-cpu", "portable"])
@pytest.mark.parametrize("preset", registry.PRESETS)
def test_every_preset_keeps_outputs_that_are_listed_twice(preset: str, target: str, tmp_path: Path) -> None:
    """One is computed from another, one is an input."""
    before = named(handmade.model(BODY.format(opset=17), table=TABLE, w=WEIGHT))
    for info in list(before.graph.output):
        before.graph.output.add().CopyFrom(info)
    source = handmade.write(before, tmp_path / "in.onnx")
    rewrite(source, preset, target=target, options=Options(tmp_path / "out.onnx"))
    check(before, onnx.load(tmp_path / "out.onnx"))
    feeds: Feeds = {"input_ids": np.ones((2, 3), np.int64), "extra": np.ones((2, 3, 64), np.float32)}
    *first, a, b, c = run(session(tmp_path / "out.onnx"), feeds)
    assert all(np.array_equal(one, other) for one, other in zip(first, (a, b, c), strict=True))


def named(proto: onnx.ModelProto) -> onnx.ModelProto:
    """With metadata, and a name for every node: `normalize` gives one to those that have none."""
    for number, node in enumerate(proto.graph.node):
        node.name = node.name or f"/{node.op_type}_{number}"
    proto.doc_string, proto.domain, proto.model_version, proto.producer_version = "about", "org.maker", 3, "1.2"
    proto.metadata_props.add(key="license", value="CC0")
    return proto


@given(
    dims=st.tuples(words, words).filter(lambda pair: pair[0] != pair[1]),
    names=st.lists(words, min_size=3, max_size=3, unique=True),
    metadata=st.dictionaries(words, words, max_size=3),
    texts=st.tuples(words, words, words),
    opset=st.sampled_from([13, 17, 21, 23]),
    preset=st.sampled_from(["w4a8-nearest", "w4", "fast", "lift"]),
)
@examples(6)
def test_whatever_it_is_called(
    dims: tuple[str, str],
    names: list[str],
    metadata: dict[str, str],
    texts: tuple[str, str, str],
    opset: int,
    preset: str,
) -> None:
    proto = handmade.model(BODY.format(opset=opset), table=TABLE, w=WEIGHT)
    renamed = dict(zip(("batch", "sequence", "extra", "y", "second output"), (*dims, *names), strict=True))
    rename(named(proto), renamed)
    proto.doc_string, proto.graph.name, proto.producer_name = texts
    for key, value in metadata.items():
        proto.metadata_props.add(key=f"own {key}", value=value)
    with tempfile.TemporaryDirectory() as folder:
        source, out = handmade.write(proto, Path(folder) / "in.onnx"), Path(folder) / "out.onnx"
        rewrite(source, preset, options=Options(out))
        check(proto, onnx.load(out))
        assert [value.name for value in load(out).graph.outputs] == [names[1], names[2], names[0]]


def rename(proto: onnx.ModelProto, names: dict[str, str]) -> None:
    """Give values and dimensions other names."""
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for info in (*proto.graph.input, *proto.graph.output):
        info.name = names.get(info.name, info.name)
        for dim in info.type.tensor_type.shape.dim:
            dim.dim_param = names.get(dim.dim_param, dim.dim_param)
