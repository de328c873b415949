"""A pass that is wrong is caught on every run, wherever it stands, and named; nothing is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from bct_onnx import exactness, registry
from bct_onnx.base import Applied, Pass, Site
from bct_onnx.errors import BctError, GateError, TargetError
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.reference import Reference
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.session import run, session
from tests.graph import handmade
from tests.passes import small

TWO_OUTPUTS = """<ir_version: 10, opset_import: ["" : 21]>
    net (float[batch, 64] x) => (float[batch, 64] large, float[batch, 64] small) {
        a = MatMul (x, w)  large = Mul (a, thousand)  t = Tanh (a)  small = MatMul (t, v) }"""


def _source(folder: Path, kind: type[np.floating] = np.float32) -> Path:
    rng = np.random.default_rng(0)
    w, v = ((rng.standard_normal((64, 64)) / 8).astype(kind) for _ in range(2))
    text = TWO_OUTPUTS.replace("float[", "float16[") if kind is np.float16 else TWO_OUTPUTS
    return handmade.write(handmade.model(text, w=w, v=v, thousand=np.array(1000, kind)), folder / "in.onnx")


def _dtype(model: ir.Model) -> np.dtype[Any]:
    dtype = model.graph.inputs[0].dtype
    assert dtype is not None
    return dtype.numpy()


@dataclasses.dataclass(frozen=True)
class Scaled(Pass):
    """Multiplies what ``Tanh`` gives, which is wrong by as much as `by` says."""

    name: ClassVar[str] = "scaled"

    by: float = 1.001

    def apply(self, model: ir.Model) -> Applied:
        node = next(node for node in model.graph if node.op_type == "Tanh")
        edit = Edit(node, after=True)
        factor = tensors.constant(model.graph, "by", np.array(self.by, _dtype(model)))
        users = list(node.outputs[0].uses())
        made = edit.op("Mul", node.outputs[0], factor)
        for user, index in users:
            user.replace_input_with(index, made)
        return Applied(model, [Site("Tanh")])


@dataclasses.dataclass(frozen=True)
class Unloadable(Scaled):
    """Leaves an operator that no runtime has."""

    name: ClassVar[str] = "unloadable"
    promise: ClassVar[str] = "bounded"

    def apply(self, model: ir.Model) -> Applied:
        next(node for node in model.graph if node.op_type == "Tanh").op_type = "Tahn"
        return Applied(model, [Site("Tanh")])


@dataclasses.dataclass(frozen=True)
class NotFinite(Scaled):
    """Makes infinity of what was finite."""

    name: ClassVar[str] = "not-finite"
    promise: ClassVar[str] = "bounded"

    by: float = float("inf")


@dataclasses.dataclass(frozen=True)
class Cut(Scaled):
    """Gives an output another shape."""

    name: ClassVar[str] = "cut"
    promise: ClassVar[str] = "bounded"

    def apply(self, model: ir.Model) -> Applied:
        node = next(node for node in model.graph if node.op_type == "Tanh")
        edit = Edit(node, after=True)
        one = tensors.constant(model.graph, "axis", np.array([0]))
        made = edit.op("ReduceMax", node.outputs[0], one)
        for user, index in [use for use in node.outputs[0].uses() if use.node is not made.producer()]:
            user.replace_input_with(index, made)
        return Applied(model, [Site("Tanh")])


@dataclasses.dataclass(frozen=True)
class Bounded(Scaled):
    """Keeps 50 dB, or says so."""

    name: ClassVar[str] = "bounded"
    promise: ClassVar[str] = "bounded"
    least: ClassVar[float | None] = 50.0


Place = Callable[[Pass], tuple[Pass, ...]]
W4 = tuple(registry.parse("normalize,quantize-weights"))
PLACES: dict[str, Place] = {
    "alone": lambda one: (one,),
    "first": lambda one: (one, *W4),
    "among exact ones": lambda one: (W4[0], *registry.parse("fold-constants"), one, *registry.parse("fuse-gelu"), *W4),
    "before what is not exact": lambda one: (*W4[:1], one, *W4[1:]),
    "last": lambda one: (*W4, *registry.parse("clean-up"), one),
}  # fmt: skip


@pytest.mark.parametrize("target", ["ort-cpu", "portable"])
@pytest.mark.parametrize("place", PLACES)
def test_a_wrong_pass_is_named(place: str, target: str, tmp_path: Path) -> None:
    """It moves the small output alone, by 1/1000: 60 dB."""
    (tmp_path / "out").mkdir()
    with pytest.raises(GateError, match=r"^scaled moved the outputs") as error:
        rewrite(_source(tmp_path), PLACES[place](Scaled()), target=target, options=Options(tmp_path / "out" / "o.onnx"))
    assert "'small' keeps" in error.value.why and "'large'" not in error.value.why
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("place", ["alone", "among exact ones", "last"])
def test_a_pass_is_held_to_a_bound_of_its_own(place: str, verify: bool, tmp_path: Path) -> None:
    """Of what was there just before it: codes of few bits lose more, and are no matter of its."""
    source, options = _source(tmp_path), Options(verify_each=verify, accept=True)
    rewrite(source, PLACES[place](Bounded(1.001)), target="portable", options=options)
    with pytest.raises(GateError, match=r"^bounded moved the outputs") as error:
        rewrite(source, PLACES[place](Bounded(1.01)), target="portable", options=options)
    assert "keeps 40.0 dB, not 50" in error.value.why and "promises 50 dB" in error.value.why


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        (Unloadable(), TargetError, "^after unloadable"),
        (NotFinite(), TargetError, "^not-finite makes NaN or infinity"),
        (Cut(), GateError, "^cut changed the outputs"),
    ],
    ids=["load", "finite", "shape"],
)
def test_who_broke_the_model_is_found(
    wrong: Pass, kind: type[BctError], said: str, verify: bool, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    options = Options(tmp_path / "out" / "o.onnx", verify_each=verify)
    with pytest.raises(kind, match=said) as error:
        rewrite(_source(tmp_path), (*W4, wrong), target="portable", options=options)
    assert "a fault of bct-onnx, not of the model" in error.value.fix
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_in_memory_is_run_again_as_it_came(tmp_path: Path) -> None:
    model = ir.load(_source(tmp_path))
    with pytest.raises(GateError, match=r"^scaled moved the outputs"):
        rewrite(model, (*W4[:1], Scaled(), *W4[1:]))


@pytest.mark.parametrize(("kind", "by", "caught"), [(np.float32, 1.00001, False), (np.float16, 1.01, True)])
def test_rounding_is_allowed(kind: type[np.floating], by: float, caught: bool, tmp_path: Path) -> None:
    """1e-5 is 100 dB; 1.01 is twenty half units of float16."""
    source = _source(tmp_path, kind)
    if caught:
        with pytest.raises(GateError, match="scaled moved"):
            rewrite(source, (Scaled(by),), target="portable")
    else:
        rewrite(source, (Scaled(by),), target="portable")


def test_a_model_that_enlarges_rounding_is_no_fault_of_a_pass(tmp_path: Path) -> None:
    """A difference of two nearly equal sums: what is left of it is rounding, in the source as in the result."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((256, 64)).astype(np.float32)
    text = """<ir_version: 10, opset_import: ["" : 21]> net (float[batch, 256] x) => (float[batch, 64] y) {
        a = MatMul (x, w)  b = MatMul (x, v)  d = Sub (a, b)  n = LayerNormalization <axis = -1> (d, one)
        y = {last} }"""
    arrays = {"w": w, "v": np.nextafter(w, w + 1), "one": np.ones(64, np.float32)}
    rewrite(_written(tmp_path, text.replace("{last}", "Tanh (n)"), arrays), (Reordered(),), target="portable")


@dataclasses.dataclass(frozen=True)
class Reordered(Pass):
    """x @ w becomes the sum of two halves, which is exact but for rounding."""

    name: ClassVar[str] = "reordered"

    def apply(self, model: ir.Model) -> Applied:
        node = next(node for node in model.graph if node.op_type == "MatMul")
        edit = Edit(node)
        weight = tensors.array(node.inputs[1])  # type: ignore[arg-type]
        last, half = edit.shape("axis", [-1]), weight.shape[0] // 2
        ends = [edit.shape("end", [at]) for at in (0, half, 2 * half)]
        parts = [
            edit.op("MatMul", edit.op("Slice", node.inputs[0], start, end, last), edit.constant("part", part))
            for start, end, part in zip(ends, ends[1:], np.split(weight, 2), strict=False)
        ]
        edit.replace(node.outputs[0], edit.op("Add", *parts))
        return Applied(model, [Site("MatMul")])


def _written(folder: Path, text: str, arrays: dict[str, np.ndarray]) -> Path:
    return handmade.write(handmade.model(text, **arrays), folder / "in.onnx")


def test_shaken_weights_differ_in_the_last_place(tmp_path: Path) -> None:
    model = ir.load(_source(tmp_path))
    old, new = (tensors.array(one.graph.initializers["w"]) for one in (model, exactness.shaken(model, 0)))
    assert np.mean(old != new) > 0.99 and np.allclose(old, new, rtol=2e-7, atol=0)
    session(exactness.shaken(model, 1))


def test_shaking_a_copy_leaves_the_model_as_it_is() -> None:
    """A copy shares the types of its values: a float16 that was widened in it was float32 in the model too."""
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 23]> g (float[n,4] x) => (float[n,4] y)
        <float16[4] half = {1, 2, 3, 4}> { wide = Cast <to = 1> (half)  y = Add (x, wide) }"""
    )
    exactness.shaken(model, 1)
    assert model.graph.initializers["half"].dtype == ir.DataType.FLOAT16
    session(model)


def test_shaken_sizes_stay_what_they_are() -> None:
    model = small.model(
        """g (float[1,2,4,4] x) => (float[1,2,8,8] y) <float one = {1.0}, float[1] two = {2.0}> {
            ones = Expand (one, pair)  scales = Concat <axis = 0> (ones, two, two)
            wide = Resize <mode = "nearest"> (x, , scales)  y = Mul (wide, weight)
        }""",
        pair=np.array([2]),
        weight=small.normal(1, 2, 1, 1),
    )
    feeds = {"x": small.normal(1, 2, 4, 4)}
    plain, shaken = (run(session(each), feeds)[0] for each in (model, exactness.shaken(model, 0)))
    assert plain.shape == shaken.shape and not np.array_equal(plain, shaken)


@dataclasses.dataclass(frozen=True)
class Silent(Scaled):
    """Says nothing of what it does."""

    name: ClassVar[str] = "silent"

    def apply(self, model: ir.Model) -> Applied:
        super().apply(model)
        return Applied(model)


def test_what_a_pass_left_as_it_was_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes tell, not what it says: one that is silent is caught."""
    opened: list[object] = []
    open_once = Reference.opened

    def counted(reference: Reference, model: Path | ir.Model) -> ort.InferenceSession:
        opened.append(model)
        return open_once(reference, model)

    monkeypatch.setattr(Reference, "opened", counted)
    source, options = _source(tmp_path), Options(verify_each=True, accept=True)
    idle = registry.parse("fuse-gelu,fuse-softmax,fuse-attention")
    report = rewrite(source, [*idle, *registry.parse("quantize-weights"), *idle], target="portable", options=options)
    assert len(opened) <= len(report.steps) - 5  # of six that are idle the first is run
    assert all(step.parity is not None for step in report.steps)
    assert report.steps[0].parity == report.steps[2].parity != report.steps[-1].parity
    with pytest.raises(GateError, match="silent moved the outputs"):
        rewrite(source, [*idle, Silent()], options=options)
