import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from bct_onnx.errors import TargetError
from bct_onnx.runtime.feeds import random_feeds
from bct_onnx.runtime.profile import OperatorTime, budget, profile
from bct_onnx.runtime.session import session
from tests.runtime import tiny


def test_operators_of_the_executed_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    data = tiny.encoder().SerializeToString()
    times = profile(data, random_feeds(session(data), batch=2, vocab=12), runs=3)
    nodes = {time.op_type: time.nodes for time in times}
    assert nodes == {"Gather": 2, "Add": 1, "Cast": 1, "Unsqueeze": 1, "Mul": 1, "MatMul": 1}
    assert [time.ms for time in times] == sorted((time.ms for time in times), reverse=True)
    assert list(tmp_path.iterdir()) == [], "no profile is left behind"


def test_number_of_runs_does_not_change_the_node_counts() -> None:
    data = tiny.encoder().SerializeToString()
    feeds = random_feeds(session(data), vocab=12)
    counts = [{t.op_type: t.nodes for t in profile(data, feeds, runs=runs)} for runs in (1, 4)]
    assert counts[0] == counts[1]


def test_failure_is_a_target_error() -> None:
    data = tiny.encoder().SerializeToString()
    feeds = random_feeds(session(data), vocab=12)
    feeds["input_ids"] += 99
    with pytest.raises(TargetError):
        profile(data, feeds)


def test_branches_count_once() -> None:
    """The time of an If is that of its nodes, and only those of one branch run."""
    text = """<ir_version: 9, opset_import: ["" : 18]> g (float[n] x, bool c) => (float[n] y) {
        y = If (c) <then_branch = yes () => (float[n] a) { a = Exp (x) },
                    else_branch = no () => (float[n] b) { b = Neg (x) }> }"""
    data = onnx.parser.parse_model(text).SerializeToString()
    feeds = {"x": np.ones(3, np.float32), "c": np.array(True)}
    assert {time.op_type: time.nodes for time in profile(data, feeds, runs=2)} == {"Exp": 1}


def test_budget() -> None:
    found = budget([OperatorTime("MatMulNBits", 1, 2.0), OperatorTime("QGemm", 1, 1.0), OperatorTime("MatMul", 1, 3.0)])
    assert (found.total_ms, found.products_ms, found.share, found.distance) == (6.0, 3.0, 0.5, 2.0)
    assert budget([OperatorTime("Add", 1, 1.0)]).distance is None and budget([]).share == 0.0
