"""Write an ONNX model whole or not at all, tensor by tensor, the same bytes every time.

Layout. Up to `EMBEDDED` bytes of weights the model is one file. Above, weights lie in one data file beside it, whose
name ends in a hash of its content: a model file and the data it names always belong together, also when a write is cut
off between the two renames.

Memory does not grow with the model: weights are copied through, and the messages around them are written by hand
(`protobuf`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import onnx
import onnx.helper
import onnx_ir as ir

from bct_onnx.errors import InputModelError, UsageError
from bct_onnx.graph import maps, optional, protobuf
from bct_onnx.graph.atomic import Sink, publish_with_data, temporary_folder
from bct_onnx.graph.load import files
from bct_onnx.graph.notes import spare
from bct_onnx.graph.tensor_messages import copy, embed, refer
from bct_onnx.quant.sizes import total_nbytes

EMBEDDED = 1 << 30
"""Weights of at most this many bytes go into the model file itself. protobuf ends at 2 GiB."""

KEPT_INSIDE = 1 << 10
"""Tensors of at most this many bytes go into the model file even beside a data file."""

PAGE = 4096
"""Tensors in the data file start at multiples of this, so that a runtime can map each of them."""

Progress = Callable[[int, int], None]
"""Called with the bytes written so far and in all."""


def check_writable(path: Path | str, *, force: bool = False, inputs: Iterable[Path] = ()) -> None:
    """Find out before any work whether a model may be written to `path`.

    Args:
        path: The output.
        force: Whether an existing output may be replaced.
        inputs: The files the rewrite reads (`bct_onnx.graph.load.files`); none of them is ever replaced.

    Raises:
        UsageError: The output exists, is an input or no regular file, or its folder is missing or read-only.
    """
    output = Path(path).absolute()
    folder = output.parent
    where = str(output)
    try:
        output.exists()
    except (OSError, ValueError) as error:  # too long, a null byte, a forbidden folder
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            "the output cannot be written there", where=where, why=why, fix="choose another name"
        ) from error
    if not folder.is_dir():
        raise UsageError("the output folder does not exist", where=str(folder), fix=f"mkdir -p '{folder}'")
    if output.exists() and not output.is_file():
        raise UsageError("the output is not a file", where=where, fix="give the name of a file, such as model.bct.onnx")
    replaced = (output, *_owned_data(output)) if output.exists() else ()
    for file in inputs:
        if any(old.samefile(file) for old in replaced):
            why = f"it would replace {file}, which is read; inputs are never modified"
            raise UsageError(
                "the output is one of the input's files", where=where, why=why, fix="choose another output name"
            )
    if output.exists() and not force:
        raise UsageError("the output exists", where=where, fix="choose another name, or replace it with --force")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError("the output folder is not writable", where=str(folder), fix="choose another folder")


def save(
    model: ir.Model,
    path: Path | str,
    *,
    force: bool = False,
    progress: Progress | None = None,
    validate: Callable[[Path], None] | None = None,
    notes: float = 1,
) -> tuple[Path, ...]:
    """Write `model` to `path` and return the files written: the model file, and the data file if there is one.

    Initializers that nothing uses are left out; every tensor is stored as raw data; the IR version is raised to what
    the operator sets need. `model` is left as it was. With `force`, a data file that the replaced model owned is
    removed after the new model is in place.

    Args:
        model: The model to write.
        path: The model file.
        force: Replace an existing model.
        progress: Told about every block written.
        validate: Called with the finished model file before it gets its place; when it raises, nothing is written.
        notes: The greatest share of the file that notes for its readers may take (see `bct_onnx.graph.notes`).

    Raises:
        UsageError: As `check_writable`; files that the model's tensors are read from count as inputs.
        OutputError: The model could not be written, for example because the disk is full. Nothing is left behind.
        InputModelError: A tensor could not be read from the file it lies in.
    """
    output = Path(path).absolute()
    tensors = [value.const_value for value in _initializers(model)]
    sources = {Path(tensor.path) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    check_writable(output, force=force, inputs=sorted(filter(Path.exists, sources)))
    proto, pairs = serialize(model, notes)
    total = sum(tensor.nbytes for _, tensor in pairs)
    report = None if progress is None else lambda written: progress(min(written, total), total)
    data = None
    with temporary_folder(output, total) as folder:
        if total > EMBEDDED:
            digest = _write_data(pairs, folder / "data", report)
            data = output.with_name(f"{output.name}.{digest[:8]}.data")
            (folder / "data").rename(folder / data.name)
            _write_around_data(proto, pairs, data.name, folder / output.name)
        else:
            with Sink(folder / output.name, report) as sink:
                _write_embedded(proto, pairs, sink)
        if validate is not None:
            validate(folder / output.name)
        try:
            publish_with_data(folder / output.name, output, data=data, owned=lambda: _owned_data(output), force=force)
        except FileExistsError as error:
            check_writable(output)  # says so, unless it is gone again
            raise OSError(error.errno, error.strerror) from error
    return tuple(filter(None, (output, data)))


def write_scratch(proto: onnx.ModelProto, pairs: list[Pair], path: Path) -> None:
    """Write a message and the weights that belong into it (`serialize`) to a new file that is not kept; the message is
    used up.

    Raises:
        InputModelError: A tensor could not be read from the file it lies in.
    """
    with Sink(path, lasting=False) as sink:
        _write_embedded(proto, pairs, sink)


def embedded(model: ir.Model) -> onnx.ModelProto:
    """The whole model as one message with every weight in it, for running it from memory; it must stay below 2 GiB."""
    proto, pairs = serialize(model)
    for message, tensor in pairs:
        embed(message, tensor)
    return proto


def predicted_size(model: ir.Model, notes: float = 1) -> int:
    """Bytes that `save` would write, without reading a weight (exact but for the padding of a data file)."""
    proto, pairs = serialize(model, notes)
    for message, _ in pairs:
        protobuf.clear_data(message)
    return int(proto.ByteSize()) + sum(tensor.nbytes + _RAW_OVERHEAD for _, tensor in pairs)


_RAW_OVERHEAD = 8  # key and length of a tensor's raw data, and the longer lengths around it

_Report = Callable[[int], None]
Pair = tuple[onnx.TensorProto, ir.TensorProtocol]
"""A tensor message of a model, and the tensor that has its data."""


def _owned_data(output: Path) -> tuple[Path, ...]:
    """The data files of the model at `output` that were written by `save` for it, so that nothing else needs them."""
    try:
        data_files = files(output)[1:]
    except InputModelError:
        return ()
    folder, pattern = output.parent.resolve(), re.compile(re.escape(output.name) + r"\.[0-9a-f]{8}\.data")
    owned = (file for file in data_files if file.parent == folder and pattern.fullmatch(file.name))
    return tuple(output.parent / file.name for file in owned)


def serialize(model: ir.Model, notes: float = 1) -> tuple[onnx.ModelProto, list[Pair]]:
    """The model's message without its weights, and every tensor message in it beside the tensor that has its data."""
    with optional.restored(model):
        return _serialize(model, notes)


def _serialize(model: ir.Model, share: float) -> tuple[onnx.ModelProto, list[Pair]]:
    tensors: dict[str, ir.TensorProtocol] = {}
    originals = [(value, value.const_value) for value in _initializers(model)]
    try:
        for value, tensor in originals:
            if tensor is not None and tensor.dtype != ir.DataType.STRING:
                location = f"initializer {len(tensors)}"
                tensors[location] = tensor
                value.const_value = _placeholder(location, tensor)
        proto = ir.to_proto(model)
    finally:
        for value, tensor in originals:
            value.const_value = tensor
    maps.give(model.graph, proto.graph)
    protobuf.tidy(proto.graph)
    if share < 1:
        spare(proto, total_nbytes(tensors.values()), share)
    needed = onnx.helper.find_min_ir_version_for(proto.opset_import, ignore_unknown=True)
    proto.ir_version = max(proto.ir_version, needed)
    stored = (message for message in protobuf.tensors(proto) if message.data_type != onnx.TensorProto.STRING)
    return proto, [(message, _source(message, tensors)) for message in stored]


def _initializers(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.initializers.values()
    for function in model.functions.values():
        for graph in function.subgraphs():
            yield from graph.initializers.values()


def _placeholder(location: str, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
    shape, props = ir.Shape(tensor.shape.numpy()), dict(tensor.metadata_props)
    return ir.ExternalTensor(
        location, None, None, tensor.dtype, shape=shape, name="", doc_string=tensor.doc_string, metadata_props=props
    )


def _source(message: onnx.TensorProto, tensors: dict[str, ir.TensorProtocol]) -> ir.TensorProtocol:
    locations = [entry.value for entry in message.external_data if entry.key == "location"]
    if locations and locations[0] in tensors:
        return tensors[locations[0]]
    copy = onnx.TensorProto()
    copy.CopyFrom(message)
    return ir.serde.deserialize_tensor(copy)


def _write_data(pairs: list[Pair], path: Path, report: _Report | None) -> str:
    """Write the tensors worth it to `path`, make their messages refer to it, and return the hash of its content."""
    with Sink(path, report) as sink:
        for message, tensor in pairs:
            if tensor.nbytes <= KEPT_INSIDE:
                continue
            sink.write(bytes(-sink.size % PAGE))
            refer(message, "", sink.size, tensor.nbytes)
            copy(tensor, sink)
    return sink.digest


def _write_around_data(proto: onnx.ModelProto, pairs: list[Pair], location: str, path: Path) -> None:
    for message, tensor in pairs:
        if tensor.nbytes > KEPT_INSIDE:
            message.external_data[0].value = location
        else:
            embed(message, tensor)
    with Sink(path) as sink:
        sink.write(proto.SerializeToString(deterministic=True))


def _write_embedded(proto: onnx.ModelProto, pairs: list[Pair], sink: Sink) -> None:
    """Write what protobuf would write, but copy the main graph's initializers through instead of holding them."""
    graph = proto.graph
    texts = [message for message in graph.initializer if message.data_type == onnx.TensorProto.STRING]
    main = len(graph.initializer) - len(texts)
    for message, tensor in pairs[main:]:
        embed(message, tensor)
    streamed = []
    for message, tensor in pairs[:main]:
        protobuf.clear_data(message)
        head = message.SerializeToString(deterministic=True) + protobuf.key(protobuf.RAW_DATA_FIELD, tensor.nbytes)
        streamed.append((protobuf.key(protobuf.INITIALIZER_FIELD, len(head) + tensor.nbytes) + head, tensor))
    rest = onnx.GraphProto()
    rest.CopyFrom(graph)
    del rest.initializer[:]
    rest.initializer.extend(texts)
    body = rest.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    length = len(body) + sum(len(head) + tensor.nbytes for head, tensor in streamed)
    sink.write(proto.SerializeToString(deterministic=True) + protobuf.key(protobuf.GRAPH_FIELD, length) + body)
    for head, tensor in streamed:
        sink.write(head)
        copy(tensor, sink)
