"""Constants of a graph: making them, reading them, and keeping the big ones out of memory.

Weights arrive as memory-mapped files and leave as files. Between the two a rewrite makes new weights; a `Spool` keeps
those on disk as well, so that memory stays flat however large the model is.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
from contextvars import ContextVar, Token
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

import numpy as np
import onnx_ir as ir

from bct_onnx.errors import OutputError
from bct_onnx.graph import names
from bct_onnx.graph.atomic import TemporaryFolder
from bct_onnx.graph.neighbours import producer, provided, reached, sources
from bct_onnx.quant.packing import pack_nibbles
from bct_onnx.quant.stored import Stored

Array = np.ndarray[Any, np.dtype[Any]]

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
"""Types of parameters."""

SPOOLED = 1 << 20
"""Constants of more than this many bytes go through the active spool."""

_ALIGNMENT = 64
_NIBBLES = (ir.DataType.INT4, ir.DataType.UINT4)
_active_spool: ContextVar[Spool | None] = ContextVar("active_spool", default=None)


def constant(
    graph: ir.Graph,
    name: str,
    data: Array | np.generic | ir.TensorProtocol,
    dtype: ir.DataType | None = None,
    *,
    free: bool = False,
) -> ir.Value:
    """Add an initializer to `graph` and return its value.

    Args:
        graph: The graph that owns the initializer, usually the root graph.
        name: The wanted name; `_1`, `_2`, ... is appended when it is taken (see `names.fresh_name`).
        data: An array of any shape, or a tensor. Sub-byte types come as ml_dtypes arrays or, with `dtype`, as any
            integer array whose values fit.
        dtype: The ONNX type to store; the type of `data` by default.
        free: Nothing has this name, as the caller knows: looking through the graph takes its time.

    Raises:
        ValueError: An integer value does not fit into `dtype`.
        OutputError: The disk that holds the active spool is full.

    >>> graph = ir.Graph([], [], nodes=[], opset_imports={"": 21}, name="g")
    >>> value = constant(graph, "w", np.array([-8, 7], np.int8), ir.DataType.INT4)
    >>> value.name, value.dtype.name, value.const_value.tobytes().hex()
    ('w', 'INT4', '78')
    """
    name = name if free else names.fresh_name(graph, name)
    tensor = _spooled(_tensor(data, dtype, name))
    value = ir.Value(name=name, shape=_shape(tensor), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def refill(value: ir.Value, data: Array) -> None:
    """Give an initializer other data of its type and shape; errors are those of `constant`."""
    value.const_value = _spooled(_tensor(data, value.dtype, value.name or ""))


def array(source: ir.Value | ir.TensorProtocol) -> Array:
    """The data of a constant, in its shape; read-only and memory mapped when it lies on disk.

    Call `release` when done with it: pages that were read count as used memory until then.

    Args:
        source: An initializer, the output of a `Constant` node, or a tensor.

    Raises:
        ValueError: The value is not a constant.
    """
    tensor = ir.convenience.get_const_tensor(source) if isinstance(source, ir.Value) else source
    if tensor is None:
        raise ValueError(f"{source} is not a constant")
    return tensor.numpy()


def small_constant(value: ir.Value | None, limit: int = 64) -> Array | None:
    """The data of a constant of at most `limit` elements; None for anything else, without reading it.

    What an input of the graph has by default is no constant: whoever runs the model may give another.
    """
    tensor = None if value is None or value.is_graph_input() else ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size > limit:
        return None
    data = np.array(tensor.numpy())
    release(tensor)  # every mapping holds a file descriptor
    return data


def number(value: ir.Value | None) -> float | None:
    """The number in a constant of one element; None for anything else."""
    constant = small_constant(value, 1)
    if constant is None or constant.size != 1 or constant.dtype.kind == "O":
        return None
    return float(constant.item())


def is_constant_expression(value: ir.Value | None) -> bool:
    """Whether ``value`` is computed from initializers alone (and is not one itself)."""
    behind = reached(provided([value]), sources)
    return producer(value) is not None and all(source.is_initializer() or source.producer() for source in behind)


def release(source: ir.Value | ir.TensorProtocol) -> None:
    """Let go of the memory behind a constant that lies on disk; it can be read again. Does nothing for other constants.

    Arrays that were read before stay valid: the mapping goes when the last of them does.
    """
    tensor = ir.convenience.get_const_tensor(source) if isinstance(source, ir.Value) else source
    if not isinstance(tensor, ir.ExternalTensor):
        return
    try:
        tensor.release()
    except BufferError:  # an array still looks at the mapping: leave closing it to the garbage collector
        tensor.raw = None


def write_to(tensor: ir.TensorProtocol, file: SupportsWrite) -> None:
    """Write the bytes of `tensor`, as ONNX stores them, without building them in memory where that can be avoided."""
    if isinstance(tensor, ir.ExternalTensor):
        tensor.tofile(file)  # in small blocks
    elif isinstance(tensor, ir.PackedTensor):
        file.write(np.ascontiguousarray(tensor.numpy_packed()).data)
    elif tensor.dtype.bitwidth < 8 or sys.byteorder == "big":
        file.write(tensor.tobytes())
    else:
        data = np.ascontiguousarray(tensor.numpy())
        file.write(data.reshape(-1).view(np.uint8).data)


def place(tensor: ir.TensorProtocol) -> Array | Stored:
    """Where the data of a constant lies, for workers to read it there; the data where it is in no file as it is."""
    plain = tensor.dtype.bitwidth >= 8 and sys.byteorder == "little"
    if not (plain and isinstance(tensor, ir.ExternalTensor) and tensor.size):
        return tensor.numpy()
    return Stored(Path(tensor.path).absolute(), tensor.offset or 0, tensor.dtype.numpy(), tensor.shape.numpy())


def forget(source: ir.TensorProtocol) -> None:
    """Drop the pages of a mapped constant that were read so far; those still wanted are read again from the file.

    Arrays on the mapping stay valid. Call it now and then while going through a tensor larger than memory should hold.
    """
    raw = source.raw if isinstance(source, ir.ExternalTensor) else None
    if isinstance(raw, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        raw.madvise(mmap.MADV_DONTNEED)


def put_away(data: Array) -> Array | Stored:
    """An array that waits for its use: in the active spool, where there is one and it is worth it.

    Raises:
        OutputError: The disk that holds the spool is full.
    """
    spool = _active_spool.get()
    if spool is None or data.nbytes <= SPOOLED:
        return data
    return place(spool.add(ir.Tensor(data)))


def spool_folder() -> Path | None:
    """The folder that large temporary files belong in, where a rewrite has one."""
    spool = _active_spool.get()
    return None if spool is None else spool.folder


class SupportsWrite(Protocol):
    """What a tensor can be written into."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Take the next bytes."""


class Spool:
    """A temporary folder on disk for the big constants of one rewrite.

    While it is entered, `constant` appends the data of constants above `SPOOLED` bytes to one file in it. The folder is
    removed on leaving, whatever happened; save the model before that.

    Args:
        folder: Where to make the temporary folder, usually the folder of the output.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._temporary = TemporaryFolder(folder, "spool")

    def __enter__(self) -> Spool:
        try:
            self._path = self._temporary.__enter__().resolve() / "tensors"
            self._file: BinaryIO = self._path.open("xb")
        except OSError as error:
            raise OutputError(
                "no temporary folder could be made",
                where=str(self.folder),
                why=str(error),
                fix="check the folder's permissions",
            ) from error
        self._token: Token[Spool | None] = _active_spool.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _active_spool.reset(self._token)
        try:
            with contextlib.suppress(OSError):  # what a full disk did not take is not needed any more
                self._file.close()
        finally:
            self._temporary.__exit__(kind, error, trace)

    def add(self, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        """Write the data of `tensor` to the spool and return a tensor that reads it from there.

        Raises:
            OutputError: The disk is full.
        """
        start = self._file.tell()
        offset = -(-start // _ALIGNMENT) * _ALIGNMENT
        try:
            self._file.seek(offset)
            write_to(tensor, self._file)
            self._file.flush()
        except OSError as error:
            raise OutputError(
                f"{tensor.nbytes:,} bytes of intermediate data could not be written",
                where=str(self.folder),
                why=error.strerror or str(error),
                fix="free some space there, or write the output to another disk",
            ) from error
        return ir.ExternalTensor(
            self._path, offset, tensor.nbytes, tensor.dtype, shape=_shape(tensor), name=tensor.name or ""
        )


def _spooled(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    spool = _active_spool.get()
    if spool is None or tensor.nbytes <= SPOOLED or isinstance(tensor, ir.ExternalTensor):
        return tensor
    return spool.add(tensor)


def _tensor(data: Array | np.generic | ir.TensorProtocol, dtype: ir.DataType | None, name: str) -> ir.TensorProtocol:
    if isinstance(data, ir.ExternalTensor):  # a name of its own: the same bytes may serve several initializers
        data = ir.ExternalTensor(
            data.location, data.offset, data.length, data.dtype, shape=_shape(data), name=name, base_dir=data.base_dir
        )
    if isinstance(data, np.generic):
        data = np.asarray(data)
    if not isinstance(data, np.ndarray):
        if dtype is None or dtype == data.dtype:
            data.name = name
            return data
        data = data.numpy()
    if dtype is None or data.dtype == dtype.numpy():
        return ir.Tensor(data, dtype, name=name)
    if dtype.is_integer() and data.size and not dtype.min <= data.min() <= data.max() <= dtype.max:
        raise ValueError(f"values from {data.min()} to {data.max()} do not fit into {dtype.name}")
    if dtype in _NIBBLES and data.dtype.itemsize == 1:
        return ir.PackedTensor(_nibbles(data), dtype, shape=ir.Shape(data.shape), name=name)
    return ir.Tensor(data.astype(dtype.numpy()), dtype, name=name)


def _nibbles(data: Array) -> Array:
    """Whole numbers of one byte each, two in a byte: by far quicker than by way of an array of a 4-bit type."""
    even = data.ndim and data.shape[-1] % 2 == 0
    return pack_nibbles(data if even else data.reshape(-1)).reshape(-1)


def _shape(tensor: ir.TensorProtocol) -> ir.Shape:
    return ir.Shape(tensor.shape.numpy())
