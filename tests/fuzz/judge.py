"""What has to hold for every input, however odd: a sound result, or one of our own errors, and no file left."""

from __future__ import annotations

import dataclasses
import re
import shutil
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
import onnx_ir as ir
import onnxruntime as ort

from bct_onnx import registry
from bct_onnx.base import EXACT
from bct_onnx.errors import BctError, GateError, TargetError, UsageError
from bct_onnx.graph import load
from bct_onnx.graph.protobuf import subgraphs
from bct_onnx.report import Report
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.feeds import Feeds, random_feeds
from bct_onnx.runtime.inputs import Input, fits, inputs_of
from bct_onnx.runtime.parity import compare_outputs
from bct_onnx.runtime.session import run, session
from bct_onnx.runtime.vocabulary import vocabulary
from tests.fuzz.cases import Case
from tests.fuzz.rounding import EXACT_DB, not_of_a_pass
from tests.interface import differences

NOTHING = "nothing was changed"
MOVED = "outputs of exact passes moved"
DECLARING = {"lie_about_shapes", "change_rank", "change_dim", "change_declared_type"}
"""Mutations that may declare shapes of values between nodes wrongly."""

LARGE = 1e18
"""Squares of more end beyond float32: whether a normalization then gives NaN depends on the last bit of its input."""

BROKEN = (
    "changed the outputs",
    "cannot load the model",
    "cannot run the model",
    "no valid ONNX",
    "moved the outputs",
    "NaN or infinity",
)
"""What our own errors say when a pass, not the input, is at fault."""

GONE = ("there is no layer", "formats of table '...' do not have each of its N rows once")
"""What is said rightly of an option that names a part, or rows of a table, which damage has taken away or changed."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How a case ended.

    Attributes:
        failed: Whether what has to hold does not.
        kind: "done", or the error, without names and numbers, so that equal ones can be counted.
        detail: All there is to say about a failure.
    """

    failed: bool
    kind: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Source:
    """What ONNX Runtime makes of the input: whether it loads and runs on random feeds, and its outputs."""

    loads: bool = False
    feeds: Feeds = dataclasses.field(default_factory=dict)
    outputs: tuple[np.ndarray[tuple[int, ...], np.dtype[np.generic]], ...] = ()
    honest: bool = True
    """Whether shapes are what is declared of them. Of values between nodes only `normalize` doubts what is declared."""
    large: bool = False
    """Whether a weight is beyond `LARGE`."""

    @property
    def finite(self) -> bool:
        """It runs, and gives no NaN or infinity, nor is near to it."""
        floats = [each for each in self.outputs if each.dtype.kind == "f"]
        return bool(self.outputs) and not self.large and all(np.isfinite(each).all() for each in floats)


def judge(case: Case, folder: Path, tell: Callable[[str], object], *, try_source: bool) -> Verdict:
    """Rewrite the case's model and look at what came out.

    Args:
        case: What to try.
        folder: An empty folder to work in.
        tell: Called with what is done, before it is done: the process may end there.
        try_source: Whether to run the input in ONNX Runtime on its own first.
    """
    inputs, output = folder / "in", folder / "out" / "result.onnx"
    inputs.mkdir()
    output.parent.mkdir()
    path = case.write(inputs)
    before = _contents(inputs)
    passes, target = case.pipeline()
    source = Source()
    if try_source:
        tell("source")
        doubting = passes.startswith(("normalize", *registry.PRESETS))
        source = _source(path, honest=doubting or not set(case.mutations()) & DECLARING)
        if source.outputs and source.honest and not doubting:
            source = dataclasses.replace(source, honest=declares_truly(onnx.load(path), _samples(path)))
    tell("rewrite")
    try:
        report = rewrite(path, passes, target=target, options=Options(output))
        verdict = _result(path, output, source, report)
    except BctError as error:
        verdict = _refusal(error, source, left=list(output.parent.iterdir()))
    except Exception as error:  # what fuzzing is there to find: reported as a failure, whatever it is
        last = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} in {Path(last.filename).name}:{last.name}"
        verdict = Verdict(True, kind, traceback.format_exc())
    if _contents(inputs) != before:
        verdict = Verdict(True, "the input's files were changed", verdict.kind)
    shutil.rmtree(folder)
    return verdict


def _source(path: Path, *, honest: bool, inputs: Sequence[Input] = ()) -> Source:
    """What the input gives, on samples that fit its own declared inputs or others."""
    try:
        runner = session(path)
    except (BctError, OSError):
        return Source()
    try:
        model = load.load(path)
        feeds = random_feeds(inputs or runner, batch=2, sequence=6, vocab=vocabulary(model))
        outputs = tuple(np.asarray(each) for each in run(runner, feeds))
        if contradiction(model, feeds):
            return Source(True)
        large = any(_is_large(value) for value in model.graph.initializers.values())
        written = onnx.load(path, load_external_data=False).graph.output  # the runtime tells what it infers instead
        honest &= all(_is_as_declared(info, one.shape) for info, one in zip(written, outputs, strict=True))
        return Source(True, feeds, outputs, honest and _as_declared(runner, feeds, outputs), large)
    except (BctError, MemoryError, ValueError, TypeError):
        return Source(True)


def _is_large(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or not tensor.dtype.is_floating_point() or not tensor.size:
        return False
    return bool(np.abs(tensor.numpy().astype(np.float64)).max() > LARGE)


def declares_truly(proto: onnx.ModelProto, samples: Iterable[Feeds]) -> bool:
    """Whether values between nodes of the outer graph have the ranks and sizes that are declared of them."""
    made = {name for node in proto.graph.node for name in node.output}
    inner = [info for info in proto.graph.value_info if info.name in made]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=info.name) for info in inner)
    if not inner:
        return True
    try:
        runner = session(proto.SerializeToString())
        arrays = [zip(inner, run(runner, feeds), strict=True) for feeds in samples]
    except BctError:
        return False
    return all(_is_as_declared(info, np.shape(array)) for pairs in arrays for info, array in pairs)


def _samples(path: Path) -> Iterator[Feeds]:
    """One text and more, as the check of a rewrite takes them."""
    model = load.load(path)
    for batch, sequence in ((1, 7), (2, 6)):
        yield random_feeds(model, batch=batch, sequence=sequence, vocab=vocabulary(model))


def _is_as_declared(info: onnx.ValueInfoProto, shape: tuple[int, ...]) -> bool:
    declared = info.type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in declared.shape.dim]
    fits = len(dims) == len(shape) and all(dim in (None, size) for dim, size in zip(dims, shape, strict=True))
    return fits or not declared.HasField("shape")


def contradiction(model: ir.Model, feeds: Feeds) -> str:
    """Why operators of ``model`` cannot be as ONNX defines them when it gets ``feeds``; empty if nothing is known.

    ONNX Runtime runs some of these all the same: where it concatenates an empty tensor with one that is longer along
    another axis, part of the result is what was in memory before. What is declared of other values plays no part.
    """
    for value in model.graph.inputs:
        if value.name in feeds:
            value.shape = ir.Shape(feeds[value.name].shape)
    proto = ir.to_proto(model)
    _undeclare(proto.graph)
    try:
        onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        return str(error)
    return ""


def _undeclare(graph: onnx.GraphProto) -> None:
    """Forget the declared types of all values but inputs."""
    del graph.value_info[:]
    for info in graph.output:
        info.ClearField("type")
    for node in graph.node:
        for inner in subgraphs(node.attribute):
            for info in inner.input:
                info.type.tensor_type.ClearField("shape")
            _undeclare(inner)


def _as_declared(runner: ort.InferenceSession, feeds: Feeds, outputs: Sequence[np.ndarray[Any, Any]]) -> bool:
    """Whether outputs have the declared ranks and sizes; a name stands for one size everywhere."""
    values = [(one, feeds[one.name]) for one in runner.get_inputs()]
    sizes: dict[str, int] = {}
    for declared, array in (*values, *zip(runner.get_outputs(), outputs, strict=True)):
        if len(declared.shape) != array.ndim:
            return False
        for dim, size in zip(declared.shape, array.shape, strict=True):
            if dim is not None and size != (dim if isinstance(dim, int) else sizes.setdefault(dim, size)):
                return False
    return True


def _refusal(error: BctError, source: Source, left: list[Path]) -> Verdict:
    kind = _without_names(error.what)
    detail = f"{type(error).__name__}: {error}"
    if left:
        return Verdict(True, "files are left after an error", f"{left}\n{detail}")
    if isinstance(error, UsageError) and not kind.startswith(GONE):
        return Verdict(True, f"UsageError: {kind}", detail)
    ours = any(words in error.what for words in BROKEN)
    if ours and source.finite and source.honest and isinstance(error, TargetError | GateError):
        return Verdict(True, f"the input is sound: {kind}", detail)
    return Verdict(False, kind, detail)


def _result(path: Path, output: Path, source: Source, report: Report) -> Verdict:
    if [file.name for file in output.parent.iterdir()] != [output.name]:
        return Verdict(True, "files beside the result", str(list(output.parent.iterdir())))
    lost = differences(_as_it_is(path, source), onnx.load(output), registry.parse(report.pipeline))
    if lost:
        return Verdict(True, f"not kept: {lost[0].split(':')[0]}", "\n".join(lost))
    try:
        runner = session(output)
        if source.outputs and not fits(source.feeds, inputs_of(runner)):
            source = _source(path, honest=source.honest, inputs=inputs_of(runner))
        if source.finite:
            verdict = _outputs(runner, source, exact=_is_exact(report))
            if verdict.failed and verdict.kind == MOVED and (blame := not_of_a_pass(path, output, source.feeds)):
                return Verdict(False, f"done, {blame}")
            return verdict
    except BctError as error:
        return Verdict(source.loads, f"the result: {_without_names(error.what)}", str(error))
    return Verdict(False, "done")


def _as_it_is(path: Path, source: Source) -> onnx.ModelProto:
    """The input without the shapes of outputs that its own run contradicts: nobody can keep these."""
    proto = onnx.load(path, load_external_data=False)
    for info, output in zip(proto.graph.output, source.outputs, strict=False):
        if not _is_as_declared(info, output.shape):
            info.type.tensor_type.ClearField("shape")
    return proto


def _is_exact(report: Report) -> bool:
    """Whether all passes that changed something promise to be exact."""
    changing = [each for step in report.steps if step.sites for each in registry.parse(step.text)]
    return all(each.promise == EXACT for each in changing)


def _outputs(runner: ort.InferenceSession, source: Source, *, exact: bool) -> Verdict:
    outputs = [np.asarray(each) for each in run(runner, source.feeds)]
    for before, after in zip(source.outputs, outputs, strict=True):
        if (before.dtype, before.shape) != (after.dtype, after.shape):
            return Verdict(True, "an output has another type or shape", f"{before.dtype}{before.shape} {after.shape}")
    parity = compare_outputs([list(source.outputs)], [outputs])
    if not parity.finite or (exact and parity.sqnr_db < EXACT_DB):
        return Verdict(True, MOVED if exact else "outputs are not finite", str(parity))
    return Verdict(False, "done, outputs agree" if exact else "done, outputs finite")


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _without_names(text: str) -> str:
    return re.sub(r"\d+", "N", re.sub(r"'.*'|\".*\"", "'...'", text, flags=re.DOTALL))
