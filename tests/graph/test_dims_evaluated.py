"""Whatever the tracker claims about shapes and about integers, ONNX Runtime computes: over all operators and ranks."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from hypothesis import given

from bct_onnx.graph import dims, shapes
from bct_onnx.graph.tensors import Array
from bct_onnx.runtime.session import run, session
from passes.fold_constants import FoldConstants
from tests.examples import examples
from tests.graph.shape_growths import programs
from tests.graph.shape_programs import SIZINGS, Program


def bound(dim: dims.Dim, actual: int, sizing: dict[str, int]) -> int | None:
    """The size that a claim stands for; a name that inference made up is bound to the first size that it is met at."""
    if dim is None or isinstance(dim, int):
        return dim
    terms = dim.split(" + ")
    if len(terms) == 1:
        return sizing.setdefault(dim, actual)
    known = [int(term) if term.isdecimal() else sizing.get(term) for term in terms]
    return None if None in known else sum(size for size in known if size is not None)


def assert_true(claim: tuple[dims.Dim, ...], actual: tuple[int, ...], sizing: dict[str, int], about: str) -> None:
    assert len(claim) == len(actual), f"{about}: rank of {claim} where it is {actual}"
    for dim, number in zip(claim, actual, strict=True):
        said = bound(dim, number, sizing)
        assert said is None or said == number, f"{about}: {claim} where it is {actual} at {sizing}"


def tracked(model: ir.Model) -> dims.Tracker:
    shapes.infer(model)
    tracker = dims.Tracker()
    for node in model.graph:
        tracker.visit(node)
    return tracker


def assert_claims(program: Program, tracker: dims.Tracker) -> None:
    for at, sizing in enumerate(SIZINGS):
        names = dict(sizing)
        for value, arrays in program.known.items():
            about = f"{value.name} of {value.producer()}"
            shape = dims.of(value)
            if shape is not None:
                assert_true(shape, arrays[at].shape, names, about)
            claimed = tracker.values.get(value)
            if claimed is not None:
                assert claimed.shape == arrays[at].shape, f"{about}: {claimed.tolist()} has another shape"
                numbers = tuple(int(number) for number in arrays[at].flat)
                assert_true(tuple(claimed.flat), numbers, names, about)


@examples(40)
@given(programs())
def test_every_claim_is_what_the_runtime_computes(program: Program) -> None:
    assert_claims(program, tracked(program.model([node.outputs[0] for node in program.nodes[-1:]])))


@examples(25)
@given(programs())
def test_folding_changes_no_result(program: Program) -> None:
    ends = [node.outputs[0] for node in program.nodes[-3:]]
    model = program.model(ends)
    FoldConstants()(model)
    runner = session(model, optimize="disabled")
    for at in range(len(SIZINGS)):
        results: list[Array] = run(runner, program.feeds(at))
        for value, result in zip(ends, results, strict=True):
            np.testing.assert_array_equal(result, program.known[value][at])
            assert result.dtype == program.known[value][at].dtype
