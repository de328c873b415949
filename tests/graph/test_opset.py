"""Operators keep their meaning on the way to a newer opset, or the model is refused by name."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.backend.test.case.node import collect_testcases

from bct_onnx import targets
from bct_onnx.errors import InputModelError, TargetError
from bct_onnx.graph import opset, opset_adapters, shapes
from bct_onnx.runtime.session import run, session
from passes.normalize import Normalize

_SQUARE = "u = Unsqueeze <axes = [0, 1]> (x)"
KEPT = {
    "opset 6": (6, "y = Elu <alpha = 0.5> (x)"),
    "opset 7": (7, "a = Add (x, s) y = Softmax (a)"),
    "opset 8": (8, "y = Slice <starts = [1], ends = [3], axes = [1]> (x)"),
    "BatchNormalization 7": (7, "y = BatchNormalization <spatial = 1> (x, s, s, s, s)"),
    "Upsample 7": (7, f"{_SQUARE} y = Upsample <scales = [1.0, 1.0, 2.0, 3.0]> (u)"),
    "Upsample 9": (9, f"{_SQUARE} y = Upsample (u, larger)"),
    "Upsample 9, linear": (9, f'{_SQUARE} y = Upsample <mode = "linear"> (u, larger)'),
    "Resize 10, larger": (10, f"{_SQUARE} y = Resize (u, larger)"),
    "Resize 10, smaller": (10, f"{_SQUARE} y = Resize (u, smaller)"),
    "Resize 10, both, linear": (10, f'{_SQUARE} y = Resize <mode = "linear"> (u, both)'),
    "Resize 11 to sizes": (11, f"{_SQUARE} y = Resize (u, none, none, sizes)"),
    "Resize 11 by scales": (11, f'{_SQUARE} y = Resize <mode = "cubic"> (u, none, larger)'),
    "GroupNormalization 18": (18, "y = GroupNormalization <num_groups = 2> (x, pair, pair)"),
    "LayerNormalization before ONNX had it": (12, "y = LayerNormalization (x, s)"),
    "Mod 13 of floats": (13, "y = Mod <fmod = 1> (x, s)"),
    "Slice 9": (9, "y = Slice <starts = [1], ends = [3], axes = [1]> (x)"),
    "TopK 9": (9, "y, i = TopK <k = 2> (x)"),
    "Dropout 9": (9, "y = Dropout <ratio = 0.5> (x)"),
    "Clip 9": (9, "y = Clip <min = -0.5, max = 0.25> (x)"),
    "Clip 9 with one bound": (9, "y = Clip <max = 0.25> (x)"),
    "Pad 10": (10, "y = Pad <pads = [0, 1, 0, 2], value = 3.0> (x)"),
    "Scatter 10": (
        10,
        "i = Constant <value = int64[1, 2] {2, 0}> () u = Slice (x, z, o) y = Scatter <axis = 1> (x, i, u)",
    ),
    "Softmax 11, first axis": (11, "y = Softmax <axis = 0> (x)"),
    "Softmax 11, default axis": (11, "y = Softmax (x)"),
    "LogSoftmax 11": (11, "y = LogSoftmax <axis = -1> (x)"),
    "Hardmax 11": (11, "y = Hardmax (x)"),
    "Unsqueeze 11": (11, "y = Unsqueeze <axes = [0, 2]> (x)"),
    "Squeeze 12": (12, "u = Unsqueeze <axes = [0]> (x) y = Squeeze <axes = [0]> (u)"),
    "Squeeze 12 without axes": (12, "u = Unsqueeze <axes = [0]> (x) y = Squeeze (u)"),
    "Split 12": (12, "y, b = Split <axis = 1, split = [1, 3]> (x)"),
    "Split 17": (17, "y, b = Split <axis = 1> (x)"),
    "ReduceSum 12": (12, "y = ReduceSum <axes = [1], keepdims = 0> (x)"),
    "ReduceMean 17": (17, "y = ReduceMean <axes = [-1]> (x)"),
    "ReduceMax 17 of all": (17, "y = ReduceMax (x)"),
    "ReduceL2 13": (13, "y = ReduceL2 <axes = [0]> (x)"),
    "CumSum 11": (11, "y = CumSum (x, one)"),
    "Gemm 9": (9, "y = Gemm <transA = 1> (x, x, s)"),
    "LayerNormalization 17": (17, "y = LayerNormalization (x, s)"),
}

REFUSED = {
    "older than the oldest": (6, "y = Add <broadcast = 1> (x, s)", "Add was another operator below opset 7"),
    "Resize 10 to both sides": (10, f"{_SQUARE} y = Resize (u, both)", "operator Resize"),
    "BatchNormalization 7 of places": (7, "y = BatchNormalization <spatial = 0> (x, s, s, s, s)", "BatchNormalization"),
    "an axis beyond the last": (11, "y = Softmax <axis = 9> (x)", "operator Softmax"),
    "no such operator": (13, "y = Wobble (x)", "operator Wobble"),
    "a mask that is used": (9, "d, m = Dropout (x) n = Cast <to = 1> (m) y = Add (d, n)", "operator Dropout"),
    "an attribute of another opset": (17, "y = Relu <alpha = 1.0> (x)", "attribute 'alpha' is unknown"),
}


def parse(version: int, body: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {version}]> g (float[r,4] x) => (y)
        <float[4] s = {{1, 2, 3, 4}}, float[1,2,4] h = {{1, 2, 3, 4, 5, 6, 7, 8}}, int64[1] k = {{2}},
         float[2] pair = {{1, 2}},
         float[4] larger = {{1, 1, 2, 3}}, float[4] smaller = {{1, 1, 0.6, 1}},
         float[4] both = {{1, 1, 0.6, 2}}, float[0] none = {{}}, int64[4] sizes = {{1, 1, 5, 2}},
         int64 one = {{1}}, int64[2] z = {{0, 0}}, int64[2] o = {{1, 2}}> {{ {body} }}"""
    )


@pytest.mark.parametrize(("version", "body"), KEPT.values(), ids=KEPT)
def test_outputs_stay(version: int, body: str) -> None:
    proto = parse(version, body)
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}
    before = run(session(proto.SerializeToString(), optimize="disabled"), feeds)
    model = ir.from_proto(proto)
    Normalize()(model)
    assert model.opset_imports[""] == 23
    for one, other in zip(before, run(session(model, optimize="disabled"), feeds), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("version", "body", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_brought_up_is_named(version: int, body: str, message: str) -> None:
    with pytest.raises(InputModelError, match=message):
        Normalize()(ir.from_proto(parse(version, body)))


def test_every_adapter_is_a_change_of_the_operator() -> None:
    for op_type, version in opset_adapters.ADAPTERS:
        assert onnx.defs.get_schema(op_type, version).since_version == version, (op_type, version)


def test_silent_changes_of_operators_have_an_adapter() -> None:
    """From the changelog of ONNX itself: what is gone is found by the check, a new default or a moved input is not."""
    silent = []
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain or not opset.OLDEST < schema.since_version <= 23:
            continue
        try:
            before = onnx.defs.get_schema(schema.name, schema.since_version - 1)
        except onnx.defs.SchemaError:
            continue
        shared = set(before.attributes) & set(schema.attributes)
        defaults = all(
            before.attributes[name].default_value == schema.attributes[name].default_value for name in shared
        )
        inputs = [one.name for one in before.inputs] == [one.name for one in schema.inputs[: len(before.inputs)]]
        if not (defaults and inputs):
            silent.append((schema.name, schema.since_version))
    assert silent
    assert set(silent) <= set(opset_adapters.ADAPTERS)


def test_attributes_of_functions_that_are_references_are_refused() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[n] x) => (float[1,n] y)
        { y = local.wide <to = [0]> (x) }
        <domain: "local", opset_import: ["" : 11]> wide <to> (a) => (b) { b = Unsqueeze <axes: ints = @to> (a) }"""
    )
    with pytest.raises(InputModelError, match="operator Unsqueeze cannot be brought from opset 11 to 23"):
        Normalize()(model)


CHOSEN = {
    "a newer opset than is needed": (25, "y = Relu (x)", 23),
    "an operator of a newer one": (25, "y = Swish (x)", 24),  # ONNX Runtime 1.32 has it at 24 only
    "a newer input": (24, "n = Cast <to = 7> (s) y = Attention <q_num_heads = 1, kv_num_heads = 1> (h, h, h,,,,k)", 24),
    "floats that had no such remainder": (28, "y = Mod (x, s)", 28),
    "integers that had": (28, "i = Cast <to = 7> (x) t = Cast <to = 7> (s) m = Mod (i, t) y = Cast <to = 1> (m)", 23),
    "a window of attention": (
        25,
        "y = Attention <q_num_heads = 1, kv_num_heads = 1, left_window_size = 1> (h, h, h)",
        25,
    ),
    "an attribute that says what is done anyway": (24, 'y = Cast <to = 10, round_mode = "up"> (x)', 23),
    "a kernel up to opset 21": (15, "y = RandomNormalLike (x)", 21),
    "a kernel up to opset 21 that the input is beyond": (22, "y = RandomUniformLike (x)", 21),
    "a function of operators up to opset 21": (15, "y = Bernoulli (x)", 21),
    "ONNX Runtime's own operator": (18, "y = SimplifiedLayerNormalization <axis = -1> (x, s)", 23),
    "a branch": (
        15,
        """t = Cast <to = 9> (one) y = If (t) <then_branch = a () => (u) { u = RandomNormalLike (x) },
            else_branch = b () => (v) { v = Neg (x) }>""",
        21,
    ),
}


@pytest.mark.parametrize(("version", "body", "chosen"), CHOSEN.values(), ids=CHOSEN)
def test_the_opset_is_one_that_has_all_operators(version: int, body: str, chosen: int) -> None:
    if version > onnx.defs.onnx_opset_version():
        pytest.skip("the installed onnx does not know that opset")
    model = ir.from_proto(parse(version, body))
    applied = Normalize().apply(model)
    assert model.opset_imports[""] == chosen
    said = [site.note for site in applied.sites if site.name == "opset"]
    assert chosen in (23, version) or any("1.23" in note or "newer than opset" in note for note in said)


def test_nodes_in_subgraphs_are_brought_up() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 12]> g (bool c, float[n] x) => (float[1,n] y) {
            y = If (c) <then_branch = t () => (float[1,n] a) { a = Unsqueeze <axes = [0]> (x) },
                        else_branch = e () => (float[1,n] b) { m = Neg (x) b = Unsqueeze <axes = [0]> (m) }>
        }"""
    )
    shapes.infer(model)
    assert opset.bring(model.graph, 23) == 2
    assert all(len(node.inputs) == 2 for node in model.graph.all_nodes() if node.op_type == "Unsqueeze")


def test_operators_that_onnxruntime_has_in_the_domain_of_onnx_are_left_alone() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 14]> g (float[2, 4] x, float[4] w) => (float[2, 4] y)
        { y = SimplifiedLayerNormalization <axis = -1, epsilon = 0.00001> (x, w) }"""
    )
    opset.bring(model.graph, 23)
    assert [node.op_type for node in model.graph] == ["SimplifiedLayerNormalization"]
    session(model)  # it has the same operator at every opset


def _examples(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """One of ONNX's own test cases of each operator, as far as the installed runtime runs it.

    What ONNX expects of them is not looked at: windows over pictures, which it computes value by value, give zeros of
    the same shape, and texts of its documentation are not cut out.
    """

    def zeros(padded: Any, x_shape: Any, kernel: Any, strides: Any, out_shape: Any, *_: Any, **__: Any) -> Any:
        return np.zeros((*x_shape[:2], *out_shape), padded.dtype)

    monkeypatch.setattr("onnx.reference.ops.op_pool_common.pool", zeros)
    monkeypatch.setattr("onnx.backend.test.case.base.process_snippet", lambda *_: ("", ""))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)  # of all operators
    found: dict[str, Any] = {}
    for case in cases:
        graph = case.model.graph if case.model is not None else onnx.GraphProto()
        if len(graph.node) == 1 and not graph.node[0].domain:
            found[graph.node[0].op_type] = case
    return found


def test_every_operator_of_onnx_keeps_its_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the opset in which ONNX tests it: what runs before runs afterwards, is legal, and gives the same."""
    wrong, right = [], 0
    for operator, case in _examples(monkeypatch).items():
        names = (one.name for one in case.model.graph.input)
        feeds = {name: _array(value) for name, value in zip(names, case.data_sets[0][0], strict=False)}
        try:
            before = run(session(case.model.SerializeToString(), optimize="disabled"), feeds)
        except TargetError:
            continue
        model = ir.from_proto(case.model)
        Normalize()(model)
        refused = targets.check(model, targets.find("ort-cpu")).illegal
        after = [] if refused else run(session(model, optimize="disabled"), feeds)
        if refused or not _agree(before, after, values=operator not in RANDOM):
            wrong.append(operator)
        else:
            right += 1
    assert wrong == []
    assert right > 140  # of the lowest versions promised; newer ones have more


def _array(value: Any) -> Any:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")


def _agree(before: list[Any], after: list[Any], *, values: bool) -> bool:
    """Whether arrays, lists of them or nothing at all are equal; of random ones only the shapes."""
    if len(before) != len(after):
        return False
    for one, other in zip(before, after, strict=True):
        if isinstance(one, list):
            same = isinstance(other, list) and _agree(one, other, values=values)
        else:
            one, other = np.asarray(one), np.asarray(other)  # noqa: PLW2901
            same = one.shape == other.shape and (
                not values or np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
            )
        if not same:
            return False
    return True
