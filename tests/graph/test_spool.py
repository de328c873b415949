"""Big constants wait in a file of their own, which goes with whoever made it."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.errors import OutputError
from bct_onnx.graph.load import load
from bct_onnx.graph.save import save
from bct_onnx.graph.tensors import Spool, array, constant, release
from tests.graph.handmade import peak_memory

BIG = np.arange(1 << 19, dtype=np.float32)


@pytest.fixture
def graph() -> ir.Graph:
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[4] x) => (float[4] y) { y = Relu (x) }'
    return ir.from_onnx_text(text).graph


def test_big_constants_go_to_the_active_spool(graph: ir.Graph, tmp_path: Path) -> None:
    with Spool(tmp_path):
        values = [constant(graph, "big", BIG + i) for i in range(3)]
        four = constant(graph, "four", np.arange(4 << 20) % 16 - 8, ir.DataType.INT4)
        small = constant(graph, "small", np.ones(4))
        assert all(isinstance(value.const_value, ir.ExternalTensor) for value in (*values, four))
        assert not isinstance(small.const_value, ir.ExternalTensor)
        for i, value in enumerate(values):
            assert np.array_equal(array(value), BIG + i)
            release(value)
        assert np.array_equal(array(four).astype(np.int64), np.arange(4 << 20) % 16 - 8)
        assert four.const_value is not None and four.const_value.nbytes == 2 << 20
        assert [path.name.startswith(".bct-spool.") for path in tmp_path.iterdir()] == [True]
        graph.outputs.extend([*values, four])
        save(ir.Model(graph, ir_version=10), tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    again = load(tmp_path / "m.onnx").graph.initializers
    assert np.array_equal(array(again["big_2"]), BIG + 2)
    assert np.array_equal(array(again["four"]).astype(np.int64), np.arange(4 << 20) % 16 - 8)


def test_no_spool_no_files(graph: ir.Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Spool(tmp_path):
        pass
    assert not isinstance(constant(graph, "big", BIG).const_value, ir.ExternalTensor)
    assert not list(tmp_path.iterdir())


def test_inner_spool_gives_way_to_the_outer(graph: ir.Graph, tmp_path: Path) -> None:
    for name in ("outer", "inner"):
        (tmp_path / name).mkdir()
    with Spool(tmp_path / "outer"):
        with Spool(tmp_path / "inner"):
            assert "inner" in str(getattr(constant(graph, "big", BIG).const_value, "path", ""))
        assert "outer" in str(getattr(constant(graph, "big", BIG).const_value, "path", ""))


def test_lazy_tensors_are_computed_into_the_spool(graph: ir.Graph, tmp_path: Path) -> None:
    calls = []

    def compute() -> ir.TensorProtocol:
        calls.append(1)
        return ir.tensor(BIG)

    lazy = ir.LazyTensor(compute, dtype=ir.DataType.FLOAT, shape=ir.Shape(BIG.shape))
    with Spool(tmp_path):
        value = constant(graph, "big", lazy)
        assert np.array_equal(array(value), BIG)
        assert np.array_equal(array(value), BIG)
    assert calls == [1]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
def test_the_spool_is_removed_whatever_happens(
    graph: ir.Graph, tmp_path: Path, interruption: type[BaseException]
) -> None:
    with pytest.raises(interruption), Spool(tmp_path):
        constant(graph, "big", BIG)
        raise interruption
    assert not list(tmp_path.iterdir())


def test_a_full_disk_under_the_spool(graph: ir.Graph, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, hard))
    try:
        with pytest.raises(OutputError, match="2,097,152 bytes") as caught, Spool(tmp_path):
            for _ in range(5):
                constant(graph, "big", BIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path) in caught.value.where
    assert not list(tmp_path.iterdir())


def test_a_spool_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="temporary folder"), Spool(tmp_path / "none"):
        pytest.fail("entered")


SPOOLED = """
import numpy as np
import onnx_ir as ir
from bct_onnx.graph.tensors import Spool, constant
graph = ir.Graph([], [], nodes=[], name="g", opset_imports={"": 21})
# measured
with Spool(Path(sys.argv[1])):
    for i in range(12):
        constant(graph, "w", np.full(1 << 20, i, np.float32))
"""


@pytest.mark.whole
def test_spooling_keeps_memory_flat(tmp_path: Path) -> None:
    before, after = peak_memory(SPOOLED, tmp_path)
    assert after - before < 20  # MiB; the constants have 48
