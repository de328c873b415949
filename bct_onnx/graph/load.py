"""Read an ONNX model: weights stay on disk until they are used, and what cannot be worked on is refused with a reason.

A model is a main file and, often, external data files. External data are looked up beside the path the user gave; the
file found must really lie (links followed) in or below the folder of that path, or of the file which that path links
to. So a model cannot name files elsewhere on the machine, and a cache whose entries are all links into one folder of
blobs works. ONNX Runtime has the same rule.
"""

from __future__ import annotations

import mmap
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # the stubs are a separate package

from bct_onnx.errors import InputModelError, path_fix
from bct_onnx.graph import declarations, maps, protobuf
from bct_onnx.graph.names import names_of, without
from bct_onnx.graph.schema import check_nodes
from bct_onnx.graph.wellformed import check_functions, check_graph, check_imports, check_tensor

_FIRST_IR_VERSION = 3
_EXTERNAL = onnx.TensorProto.EXTERNAL
_CHECKPOINTS = (".safetensors", ".bin", ".pt", ".pth")
"""Endings of files with the weights of PyTorch."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(?<!\.onnx)")
"""How the Hugging Face hub names a model: OWNER/NAME."""


def load(path: Path | str) -> ir.Model:
    """Read and check the model at `path`.

    Weights become `ir.ExternalTensor` with absolute locations: mapped when read, independent of the working directory.
    That holds for tensors over 1 MiB inside the main file too; `Constant` nodes whose data lie on disk become
    initializers. Nodes are put in topological order. IR version 3 is raised to 4 by removing the initializers from the
    graph's inputs, which is what runtimes make of it. Training information is not read.

    Raises:
        InputModelError: There is no usable model at `path`.
    """
    file = _regular_file(path)
    proto = _parse(file)
    _check_header(proto, file)
    check_imports(proto, str(file))
    _locate_tensors(proto, file)
    check_graph(proto.graph, str(file))
    check_functions(proto, str(file))
    check_nodes(proto, str(file))
    _drop_initializer_inputs(proto)
    declarations.settle(proto.graph)
    _lift_constants(proto.graph)
    map_types = maps.take(proto.graph)
    try:
        model = ir.from_proto(proto)
    except (ir.serde.SerdeError, ValueError, NotImplementedError) as error:
        cause: BaseException = error
        while isinstance(cause, ir.serde.SerdeError) and cause.__cause__ is not None:
            cause = cause.__cause__
        raise InputModelError(
            "the model uses a part of ONNX that cannot be read",
            where=str(file),
            why=str(cause),
            fix="export the model again",
        ) from error
    if map_types:
        model.graph.meta[maps.TYPES] = map_types
    _sort(model, file)
    return model


def files(path: Path | str) -> tuple[Path, ...]:
    """The files of the model at `path`, absolute: the main file as given, then its external data with links resolved.

    Raises:
        InputModelError: As for `load`, as far as files are concerned.
    """
    file = _regular_file(path)
    data_files = _locate_tensors(_parse(file), file)
    return (file, *(data for data in data_files if data != file.resolve()))


def nbytes_of(files: Iterable[Path]) -> int:
    """Bytes on disk of some files."""
    return sum(file.stat().st_size for file in files)


def size(path: Path | str) -> int:
    """Bytes on disk of the model at `path`, external data included.

    Raises:
        InputModelError: As for `files`.
    """
    return nbytes_of(files(path))


def _regular_file(path: Path | str) -> Path:
    file = Path(path).absolute()
    try:
        status = file.stat()
    except (OSError, ValueError) as error:  # ValueError: a null byte
        why = getattr(error, "strerror", None) or str(error)
        fix = path_fix(file)
        if _HUB_ID.fullmatch(str(path)):
            fix += f"; a model of the Hugging Face hub is exported first: {_exporting(str(path))}"
        raise InputModelError("the model cannot be found", where=str(file), why=why, fix=fix) from error
    if stat.S_ISDIR(status.st_mode):
        raise InputModelError("this is a folder, not a file", where=str(file), fix=_choosing(file))
    if not stat.S_ISREG(status.st_mode):
        raise InputModelError("this is not a regular file", where=str(file), fix="copy the model into a file first")
    if status.st_size == 0:
        raise InputModelError("the file is empty", where=str(file), fix="download or export the model again")
    return file


def _choosing(folder: Path) -> str:
    """What to name instead of a folder: the first model in it, or what makes one of the checkpoint that it is."""
    models = sorted(folder.rglob("*.onnx"))
    if models:
        return f"name the .onnx file in it: {models[0]}"
    if any(file.suffix.lower() in _CHECKPOINTS for file in folder.glob("*")):
        return f"it holds a checkpoint; export it first: {_exporting(str(folder))}"
    return "name the .onnx file in it"


def _exporting(checkpoint: str) -> str:
    """The command that makes a model of a checkpoint."""
    return f"bct-onnx export {checkpoint} -o model.onnx (pip install 'bct-onnx[export]')"


def _parse(file: Path) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start = data[:64]
            proto.ParseFromString(protobuf.skeleton(data, file.resolve().name))
            protobuf.check_text(proto)
    except OSError as error:
        raise InputModelError("the file cannot be read", where=str(file), why=error.strerror or str(error)) from error
    except protobuf.Truncated as error:
        raise _unreadable(file, start, str(error), "it is cut off, or not an ONNX model") from error
    except (protobuf.Malformed, DecodeError) as error:
        raise _unreadable(file, start, str(error), "it is not an ONNX model, or damaged") from error
    except UnicodeDecodeError as error:
        raise _unreadable(file, start, str(error), "a name in it is not text") from error
    if not proto.HasField("graph"):
        raise _unreadable(file, start, "it holds no graph", "it is not an ONNX model, or cut off")
    return proto


def _unreadable(file: Path, start: bytes, detail: str, guess: str) -> InputModelError:
    why, fix = f"{guess} ({detail})", "download or export the model again"
    if file.suffix.lower() in _CHECKPOINTS:
        why, fix = "it holds the weights of a checkpoint, without a graph", f"export it: {_exporting(str(file.parent))}"
    elif start.startswith(b"version https://git-lfs"):
        why, fix = "it is a Git LFS pointer: a short text in place of the model", "run 'git lfs pull' in its folder"
    elif start[4:8] == b"ORTM":
        why, fix = "it is in ONNX Runtime's own .ort format", "use the .onnx file it was made from"
    elif start.lstrip()[:1] == b"<":
        why, fix = "it looks like a web page", "download the model again, with the address of the file itself"
    return InputModelError("the file is not a readable ONNX model", where=str(file), why=why, fix=fix)


def _check_header(proto: onnx.ModelProto, file: Path) -> None:
    version = proto.ir_version
    if version < _FIRST_IR_VERSION:
        why = f"its IR version is {version}; {_FIRST_IR_VERSION} is the first that states its operator set"
        raise InputModelError("the model's format is too old", where=str(file), why=why, fix="export the model again")
    if version > onnx.IR_VERSION:
        why = f"its IR version is {version}; the installed onnx {onnx.__version__} knows up to {onnx.IR_VERSION}"
        raise InputModelError(
            "the model's format is too new", where=str(file), why=why, fix="pip install --upgrade onnx"
        )


def _drop_initializer_inputs(proto: onnx.ModelProto) -> None:
    """Before IR version 4 every initializer had to be listed as an input as well, and was a constant all the same."""
    if proto.ir_version > _FIRST_IR_VERSION:
        return
    initializers = set(names_of(proto.graph.initializer))
    inputs = without(proto.graph.input, initializers)
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.ir_version = _FIRST_IR_VERSION + 1


def _lift_constants(graph: onnx.GraphProto) -> None:
    """Make initializers of the Constant nodes whose data lie on disk: few tools expect those in an attribute."""
    for i in reversed(range(len(graph.node))):
        node = graph.node[i]
        for inner in protobuf.subgraphs(node.attribute):
            _lift_constants(inner)
        stored = [attribute.t for attribute in node.attribute if attribute.t.data_location == _EXTERNAL]
        if node.op_type == "Constant" and not node.domain and stored and node.output:
            tensor = graph.initializer.add()
            tensor.CopyFrom(stored[0])
            tensor.name = node.output[0]
            del graph.node[i]


def _sort(model: ir.Model, file: Path) -> None:
    parts: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in parts:
        try:
            graph.sort()
        except ValueError as error:
            why = "some nodes need each other's results, so none of them can run first"
            fix = "export the model again"
            raise InputModelError(
                "the graph has a cycle", where=f"{file}, graph {graph.name!r}", why=why, fix=fix
            ) from error


def _locate_tensors(proto: onnx.ModelProto, file: Path) -> list[Path]:
    """Check every tensor, make external locations absolute, and return the external files in order of first use."""
    paths: dict[str, Path] = {}
    for tensor in protobuf.tensors(proto):
        where = f"{file}, tensor {tensor.name!r}"
        nbytes = check_tensor(tensor, where)
        if tensor.data_location != _EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if nbytes == 0:
            tensor.raw_data = b""
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            continue
        if location not in paths:
            paths[location] = _data_file(file, location, where)
        _check_extent(entries, nbytes, paths[location], where)
        del tensor.external_data[:]
        protobuf.point(tensor, str(paths[location]), int(entries.get("offset", 0)), nbytes)
    return list(dict.fromkeys(paths.values()))


def _data_file(file: Path, location: str, where: str) -> Path:
    candidate, reason = file.parent / location, "it is not a regular file"
    try:
        regular, real = stat.S_ISREG(candidate.stat().st_mode), candidate.resolve()
    except (OSError, ValueError) as error:
        regular, real, reason = False, candidate, getattr(error, "strerror", None) or str(error)
    first = Path(os.path.normpath(location)).parts[:1]
    folders = (file.parent.resolve(), file.resolve().parent)
    named_outside = Path(location).is_absolute() or PureWindowsPath(location).anchor or first == (os.pardir,)
    if named_outside or (regular and not any(map(real.is_relative_to, folders))):
        raise InputModelError(
            "the model refers to a file outside its folder",
            where=where,
            why=f"external data location {location!r}; a model that may read any file can disclose it",
            fix="copy the model and its data files into one folder (cp -L follows links), then try again",
        )
    if not regular:
        fix = "put the data file beside the .onnx file, under the name the model was exported with"
        if file.is_symlink():
            fix = f"give the path of the model itself: {file.resolve()}"
        why = f"external data location {location!r}: {reason}"
        raise InputModelError("an external data file is missing", where=where, why=why, fix=fix)
    return real


def _check_extent(entries: dict[str, str], nbytes: int, data: Path, where: str) -> None:
    fix = "export the model again"
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", nbytes))
    except ValueError as error:
        problem = "an external data offset or length is not a number"
        raise InputModelError(problem, where=where, why=str(error), fix=fix) from error
    if length != nbytes:
        why = f"the external data has {length:,} bytes, its shape and type need {nbytes:,}"
        raise InputModelError("a tensor's shape and data disagree", where=where, why=why, fix=fix)
    available = data.stat().st_size
    if offset < 0 or offset + nbytes > available:
        why = f"the tensor is at bytes {offset:,} to {offset + nbytes:,} of {data.name!r}, which has {available:,}"
        if available < 1024 and data.read_bytes().startswith(b"version https://git-lfs"):
            fix = "this is a Git LFS pointer, not the data: run 'git lfs pull' in its folder"
        raise InputModelError("the external data is cut off", where=where, why=why, fix=fix)
