"""One way into ONNX Runtime: the CPU provider unless another is asked for; failures are `TargetError`."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from bct_onnx.errors import InputModelError, OutputError, TargetError, UsageError
from bct_onnx.graph import kernels, provenance, quantizers, tensors
from bct_onnx.graph.atomic import WriteError, scratch
from bct_onnx.graph.known import initializer_nbytes
from bct_onnx.graph.names import entries, names_of
from bct_onnx.graph.save import Pair, serialize, write_scratch
from bct_onnx.graph.tensor_messages import embed
from bct_onnx.runtime import memory

Optimize = Literal["all", "extended", "basic", "disabled"]


@dataclasses.dataclass(frozen=True, eq=False)
class Message:
    """A model as a message, and the weights that belong into it; loading it uses it up."""

    proto: onnx.ModelProto
    pairs: list[Pair]

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(tensor.nbytes for _, tensor in self.pairs)


Model = str | Path | bytes | ir.Model | Message

THROUGH_FILE = 1 << 26
"""Bytes of weights from which a model in memory is loaded by way of a file."""

# Protobuf refuses messages of 2 GiB and more; the graph itself needs some room beside the tensors.
IN_MEMORY_LIMIT = 2**31 - 2**24

_LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_FATAL_ONLY = 4  # errors reach the user as exceptions; printed by the log as well they would appear twice

ORT_ERRORS: tuple[type[Exception], ...] = (
    *(v for v in vars(ort_state).values() if isinstance(v, type) and issubclass(v, Exception)),
    RuntimeError,
    ValueError,
)
"""The binding raises a dozen classes that share no base but Exception, and two built-in ones."""


CPU = "CPUExecutionProvider"


def session(
    model: Model,
    *,
    threads: int = 1,
    optimize: Optimize = "all",
    profile: str | Path | None = None,
    provider: str = CPU,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> ort.InferenceSession:
    """An ONNX Runtime session.

    Args:
        model: A file, serialized bytes, or a model in memory. A model in memory is serialized (its external tensors
            are read in), so it has to stay below 2 GiB.
        threads: Threads within an operator; 0 leaves the choice to ONNX Runtime.
        optimize: How far ONNX Runtime may rewrite the graph.
        profile: Start of the path of the profile to write; None for no profile.
        provider: Execution provider that is asked first; the CPU runs what it does not take.
        settings: Further settings of the session by their names in ONNX Runtime.

    Raises:
        InputModelError: There is no such file.
        UsageError: The model in memory is too large to serialize.
        TargetError: ONNX Runtime refuses the model, or the installed one does not have the provider.
    """
    if provider not in ort.get_available_providers():
        raise TargetError(
            f"the installed onnxruntime has no {provider}",
            why=f"it has {', '.join(ort.get_available_providers())}",
            fix="install the package that has it, for example onnxruntime-gpu, on a machine with such a device",
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = _LEVELS[optimize]
    options.log_severity_level = _FATAL_ONLY
    for name, value in settings.items():
        options.add_session_config_entry(name, value)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    try:
        with _opened(model) as given:
            loaded = ort.InferenceSession(given, options, providers=list(dict.fromkeys((provider, CPU))))
        if isinstance(given, str):
            memory.give_back()
        return loaded
    except ORT_ERRORS as error:
        raise TargetError(
            "ONNX Runtime cannot load the model",
            where=_where(model),
            why=short_message(error),
            fix="check it with `check-model FILE` (from onnx); an unknown operator or opset needs a newer onnxruntime",
        ) from error


def run(
    target: ort.InferenceSession, feeds: Mapping[str, np.ndarray[Any, Any]], names: Sequence[str] | None = None
) -> list[np.ndarray[Any, Any]]:
    """The named outputs, or all in declared order. Feeds the model does not declare are left out.

    Raises:
        UsageError: A declared input has no feed.
        TargetError: ONNX Runtime fails to run the model on these inputs.
    """
    inputs = names_of(target.get_inputs())
    missing = [name for name in inputs if name not in feeds]
    if missing:
        raise UsageError(
            f"no value for model input '{missing[0]}'",
            where=f"the feeds have {', '.join(feeds) or 'nothing'}",
            fix=f"give an array for each of {', '.join(inputs)}",
        )
    options = ort.RunOptions()
    options.log_severity_level = _FATAL_ONLY
    try:
        outputs: Sequence[np.ndarray[Any, Any]] = target.run(names, entries(feeds, inputs), options)
    except ORT_ERRORS as error:
        shapes = ", ".join(f"{name} {feeds[name].dtype}{list(feeds[name].shape)}" for name in inputs)
        raise TargetError(
            "ONNX Runtime cannot run the model", where=f"inputs {shapes}", why=short_message(error)
        ) from error
    return list(outputs)


def run_all(
    target: ort.InferenceSession,
    samples: Iterable[Mapping[str, np.ndarray[Any, Any]]],
    names: Sequence[str] | None = None,
) -> list[list[np.ndarray[Any, Any]]]:
    """As `run`, of one sample after the other."""
    return [run(target, feeds, names) for feeds in samples]


def short_message(error: Exception) -> str:
    """ONNX Runtime's message without its prefix, source paths and C++ trace.

    >>> short_message(RuntimeError("[ONNXRuntimeError] : 10 : INVALID_GRAPH : Bad node.\\nStacktrace: ..."))
    'Bad node.'
    """
    first = next(filter(str.strip, str(error).splitlines()), type(error).__name__)
    first = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", first)
    first = re.sub(r"(?:/|[A-Z]:\\)\S+\.(?:cc|h):\d+ ", "", first)
    if len(first) <= 300:
        return first
    return first[:297] + "..."


@contextlib.contextmanager
def _opened(model: Model) -> Iterator[str | bytes]:
    """What ONNX Runtime loads: `loadable`, but large models in memory by way of a file, which is gone afterwards.

    Bytes would be held three times: by us, as ONNX Runtime's message and as its weights. Of a file it holds one tensor
    of the message at a time.
    """
    if isinstance(model, ir.Model) and _nbytes(model) > THROUGH_FILE:
        _check_size(_nbytes(model))
        model = Message(*serialize(runnable(model)))
    if not isinstance(model, Message) or model.nbytes <= THROUGH_FILE:
        yield loadable(model)
        return
    with scratch("session", tensors.spool_folder()) as folder:
        try:
            write_scratch(model.proto, model.pairs, folder / "model.onnx")
        except WriteError as error:
            problem, fix = "a model to be run could not be written", "free some space there"
            raise OutputError(problem, where=str(folder.parent.parent), why=str(error), fix=fix) from error
        yield str(folder / "model.onnx")


def loadable(model: Model) -> str | bytes:
    """What runtimes take: a path that exists, or bytes.

    Raises:
        InputModelError: There is no such file.
        UsageError: The model in memory is too large to serialize.
    """
    if isinstance(model, bytes):
        return model
    if isinstance(model, str | Path):
        if not Path(model).is_file():
            raise InputModelError("no such model file", where=str(model), fix="check the path")
        return str(model)
    if isinstance(model, ir.Model):
        _check_size(_nbytes(model))
        model = Message(*serialize(runnable(model)))
    for message, tensor in model.pairs:
        embed(message, tensor)
        tensors.release(tensor)
    serialized: bytes = model.proto.SerializeToString()
    return serialized


def _nbytes(model: ir.Model) -> int:
    """Bytes of all weights of a model."""
    return sum(map(initializer_nbytes, model.graphs()))


def _check_size(nbytes: int) -> None:
    if nbytes > IN_MEMORY_LIMIT:
        raise UsageError(
            f"a model of {nbytes / 1e9:.1f} GB cannot be run from memory",
            why="ONNX messages are limited to 2 GiB",
            fix="save it with external data and give the path",
        )


def runnable(model: ir.Model) -> ir.Model:
    """A model on its way to a target, as the installed runtime runs it: lowering comes last (see `quantizers`).

    Without `normalize` the model may be of an opset for whose quantizers no runtime has kernels yet.
    """
    installed = ".".join(ort.__version__.split(".")[:2])
    if installed not in kernels.versions() or not quantizers.lack_kernel(model, installed):
        return model
    copy = model.clone()
    if quantizers.bring_down(copy, installed)[0]:
        return copy
    with provenance.stamping(copy, "lower-quantize"):  # for names that no other graph has
        for node in quantizers.without_kernel(copy, installed):
            quantizers.respell(copy, node)
    return copy


def _where(model: Model) -> str:
    if isinstance(model, Message):
        return f"graph '{model.proto.graph.name}'"
    if isinstance(model, bytes):
        return f"a serialized model of {len(model)} bytes"
    if isinstance(model, ir.Model):
        return f"graph '{model.graph.name}'"
    return str(model)
