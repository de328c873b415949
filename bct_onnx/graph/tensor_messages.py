"""The data of a tensor: in its protobuf message, beside it in another file, or copied to one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from bct_onnx.errors import InputModelError
from bct_onnx.graph import protobuf
from bct_onnx.graph.atomic import Sink, WriteError
from bct_onnx.graph.tensors import write_to


def embed(message: onnx.TensorProto, tensor: ir.TensorProtocol) -> None:
    """Put the data of a tensor into its message."""
    protobuf.clear_data(message)
    with _reading(tensor):
        message.raw_data = tensor.tobytes()


def refer(message: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Make a tensor message refer to bytes in another file."""
    protobuf.clear_data(message)
    protobuf.point(message, location, offset, length)


def copy(tensor: ir.TensorProtocol, sink: Sink) -> None:
    """Append the data of a tensor to a file."""
    start = sink.size
    with _reading(tensor):
        write_to(tensor, sink)
    if sink.size - start != tensor.nbytes:
        raise ValueError(f"{tensor.name}: {sink.size - start} bytes of data, {tensor.nbytes} by its shape and type")


@contextlib.contextmanager
def _reading(tensor: ir.TensorProtocol) -> Iterator[None]:
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        where = (
            f"{tensor.path}, tensor {tensor.name!r}"
            if isinstance(tensor, ir.ExternalTensor)
            else f"tensor {tensor.name!r}"
        )
        fix = "leave the input's files where they are until the rewrite is done"
        raise InputModelError("a tensor could not be read", where=where, why=str(error), fix=fix) from error
