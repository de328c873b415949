"""The student computes what ONNX Runtime computes of the model as it is stored, before and after it has learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx import registry
from bct_onnx.course import Course
from bct_onnx.graph import before
from bct_onnx.graph.load import load
from bct_onnx.runtime.feeds import Feeds, random_feeds
from bct_onnx.runtime.session import run, session
from bct_onnx.training.region import Region
from tests.passes import small

pytestmark = pytest.mark.train

STORED = (
    "quantize-embeddings{bits=2},quantize-weights{bits=2}",
    "quantize-embeddings{bits=3},quantize-weights{bits=3 symmetric=false}",
    "quantize-embeddings,quantize-weights{block=64x64 scale=shift}",
    "quantize-embeddings{bits=8},quantize-weights{bits=2 formats=8/32:*43*}",
    "quantize-embeddings{formats=@6(20)3(80)42(400)1(5499):*word*},quantize-weights{bits=2}",
    "quantize-embeddings{bits=2 formats=3/32@0-500:*word*|2/32@500-6000:*word*},quantize-weights",
)


def stored(source: Path | ir.Model, pipeline: str) -> ir.Model:
    """A model after a pipeline, as `distill` finds it."""
    model = load(source) if isinstance(source, Path) else source
    passes = tuple(registry.parse(f"{pipeline},distill"))
    for number, each in enumerate(passes[:-1]):
        Course(passes, number).show(model)
        each(model)
    return model


def distillation(model: ir.Model, feeds: Feeds) -> Any:
    """What teaches a stored model with one batch."""
    from bct_onnx.training.distilling import Distillation

    teacher = before.of(model)
    assert teacher is not None
    return Distillation(model, teacher, Region.of(model), [feeds], [feeds])


def constants(model: ir.Model) -> dict[str, bytes]:
    """The bytes of every initializer."""
    found: dict[str, bytes] = {}
    for name, value in model.graph.initializers.items():
        assert value.const_value is not None
        found[name] = value.const_value.tobytes()
    return found


def assert_equal_in_onnx_runtime(model: ir.Model, student: Any, feeds: Feeds) -> None:
    """Optimizations are off, since some compute in 8 bits what the graph has in floats."""
    [expected] = run(session(model, optimize="disabled"), feeds)
    result = student(feeds, [model.graph.outputs[0].name], student.decoded())[model.graph.outputs[0].name]
    np.testing.assert_allclose(result.detach().numpy(), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("pipeline", STORED)
def test_student_is_the_stored_model(pipeline: str, bundled_model: Path) -> None:
    import torch

    model = stored(bundled_model, f"lift,{pipeline}")
    feeds = random_feeds(model, batch=3, sequence=11, vocab=2000)
    student = distillation(model, feeds).student
    assert_equal_in_onnx_runtime(model, student, feeds)
    untouched = constants(model)
    student.write()
    assert constants(model) == untouched, "what has learned nothing is what was stored"
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for group, size in zip(student.parameters(), (1.0, 0.02, 0.02), strict=True):
            for parameter in group:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    student.write()
    assert constants(model) != untouched
    assert_equal_in_onnx_runtime(model, student, feeds)


def test_a_tied_table_is_one_tensor() -> None:
    table = small.normal(80, 64, seed=1)
    nodes = "r = Gather (table, ids) t = Transpose <perm = [1, 0]> (table) y = MatMul (r, t)"
    text = f"g (int64[n,s] ids) => (float[n,s,80] y) {{ {nodes} }}"
    model = stored(small.model(text, table=table), "quantize-embeddings{bits=2}")
    feeds = {"ids": np.array([[3, 70, 3], [0, 1, 2]])}
    student = distillation(model, feeds).student
    assert len(student.learned) == 1
    assert_equal_in_onnx_runtime(model, student, feeds)


def test_rows_that_no_batch_looks_up_stay(bundled_model: Path) -> None:
    import torch

    model = stored(bundled_model, "lift,quantize-embeddings{bits=2}")
    feeds = random_feeds(model, batch=1, sequence=4, vocab=50)
    region = Region.of(model)
    lookup = max(region.lookups.values(), key=lambda each: each.table.count)
    codes = lookup.table.blocks().codes.copy()
    student = distillation(model, feeds).student
    with torch.no_grad():
        student.learned[lookup.codes].codes += 2.0
    student.write()
    changed = (lookup.table.blocks().codes != codes).any(axis=0)
    assert set(np.flatnonzero(changed)) <= set(feeds["input_ids"].ravel().tolist())
    assert changed.any()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("h = MatMul (x, w) y = TopK <axis = -1> (h, one)", "TopK cannot be trained through"),
        ("h = MatMul (x, w) y = ArgMax (h)", "nothing that is stored"),
    ],
)
def test_what_cannot_be_trained_is_refused(text: str, reason: str) -> None:
    output = "int64 y" if "ArgMax" in text else "float y"
    if "TopK" in text:
        text = text.replace("y = TopK", "y, i = TopK")
    arrays: dict[str, Any] = {"w": small.normal(64, 64)}
    if "one" in text:
        arrays["one"] = np.array([1])
    model = stored(small.model(f"g (float[n,64] x) => ({output}) {{ {text} }}", **arrays), "quantize-weights{bits=2}")
    assert reason in Region.of(model).refusal(("MatMul", "ArgMax"))


def test_latents_start_spread_over_what_rounds_to_their_codes() -> None:
    from bct_onnx.training.learned import Learned, Numbers

    codes = np.random.default_rng(0).integers(-2, 2, (64, 32))
    learned = Learned(Numbers(codes, np.ones(32, np.float16), np.asarray(-2), np.asarray(1)))
    latents = learned.codes.detach().numpy()
    np.testing.assert_array_equal(learned.stored()[0], codes)
    inside = latents[(codes > -2) & (codes < 1)] - codes[(codes > -2) & (codes < 1)]
    assert np.abs(inside).max() < 0.5 < 5 * inside.std(), "codes change a few at a time, not all at once"
    assert latents.min() >= -2 and latents.max() <= 1, "what starts beyond the limits learns nothing"
