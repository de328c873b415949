"""Mutations of tensors: shapes, types, values, where the data lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from bct_onnx.graph import protobuf
from tests.fuzz.mutations import SIZES, WORDS, Impossible, Rng, chance, graphs, mutation, names, pick

Array = np.ndarray[Any, np.dtype[Any]]

_VALUES: dict[str, Callable[[Array, Rng], Array]] = {
    "nan": lambda data, rng: _one(data, rng, np.nan),
    "infinite": lambda data, rng: _one(data, rng, np.inf),
    "huge": lambda data, rng: _one(data, rng, 3e38),
    "beyond float16": lambda data, rng: _one(data, rng, 1e6),
    "all zero": lambda data, rng: np.zeros_like(data),
    "all equal": lambda data, rng: np.full_like(data, 0.1),
    "tiny": lambda data, rng: data * np.float32(1e-38),
    "large": lambda data, rng: data * np.float32(1e4),
    "negative": lambda data, rng: -np.abs(data),
    "a zero column": lambda data, rng: data * (np.arange(data.shape[-1]) > 0) if data.ndim else data,
}


@mutation
def change_values(proto: onnx.ModelProto, rng: Rng) -> None:
    """Still a well-formed float tensor, with values of an odd kind."""
    tensor = _tensor(proto, rng, onnx.TensorProto.FLOAT)
    with np.errstate(all="ignore"):
        data = pick(list(_VALUES.values()), rng)(numpy_helper.to_array(tensor), rng).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(data, tensor.name))


@mutation
def change_integers(proto: onnx.ModelProto, rng: Rng) -> None:
    """Shapes, axes and indices that are stored as tensors."""
    tensor = _tensor(proto, rng, onnx.TensorProto.INT64)
    data = np.array(numpy_helper.to_array(tensor))
    if not data.size:
        raise Impossible
    data.flat[int(rng.integers(data.size))] = pick(SIZES, rng)
    tensor.CopyFrom(numpy_helper.from_array(data, tensor.name))


@mutation
def reshape(proto: onnx.ModelProto, rng: Rng) -> None:
    """As many elements in another shape: flat, transposed, a scalar's, one axis more."""
    tensor = _tensor(proto, rng)
    dims = list(tensor.dims)
    choices = [[int(np.prod(dims))], dims[::-1], [*dims, 1], [1, *dims], [dim for dim in dims if dim != 1]]
    tensor.dims[:] = pick(choices, rng)


@mutation
def crop(proto: onnx.ModelProto, rng: Rng) -> None:
    """Fewer rows, or columns, or none at all, with the data to match."""
    tensor = _tensor(proto, rng, onnx.TensorProto.FLOAT)
    data = numpy_helper.to_array(tensor)
    if not data.ndim:
        raise Impossible
    data = data[..., : pick((0, 1, data.shape[-1] // 2), rng)]
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(data), tensor.name))


@mutation
def change_dims(proto: onnx.ModelProto, rng: Rng) -> None:
    """A shape that the data do not have."""
    tensor = _tensor(proto, rng)
    dims = [*tensor.dims, 1]
    dims[int(rng.integers(len(dims)))] = pick(SIZES, rng)
    tensor.dims[:] = dims if chance(rng) else dims[:-1]


@mutation
def cut_data(proto: onnx.ModelProto, rng: Rng) -> None:
    tensor = _tensor(proto, rng)
    tensor.raw_data = tensor.raw_data[: -int(rng.integers(1, 9))] if chance(rng) else tensor.raw_data + bytes(4)


@mutation
def change_type(proto: onnx.ModelProto, rng: Rng) -> None:
    """The same bytes as another type."""
    _tensor(proto, rng).data_type = int(rng.integers(-1, 28))


@mutation
def convert(proto: onnx.ModelProto, rng: Rng) -> None:
    """One tensor, or every one together with what is declared, as another float type."""
    wanted = pick((onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16), rng)
    everything = chance(rng, 0.7)
    changed = [one for one in protobuf.tensors(proto) if one.data_type == onnx.TensorProto.FLOAT]
    for tensor in changed if everything else [pick(changed, rng)]:
        with np.errstate(all="ignore"):
            data = numpy_helper.to_array(tensor).astype(onnx.helper.tensor_dtype_to_np_dtype(wanted))
        tensor.CopyFrom(numpy_helper.from_array(data, tensor.name))
    for graph in graphs(proto) if everything else ():
        for info in (*graph.input, *graph.output, *graph.value_info):
            if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
                info.type.tensor_type.elem_type = wanted


@mutation
def store_as_values(proto: onnx.ModelProto, rng: Rng) -> None:
    """Floats one by one in place of bytes, as old exporters did; or both."""
    tensor = _tensor(proto, rng, onnx.TensorProto.FLOAT)
    values = numpy_helper.to_array(tensor).reshape(-1).tolist()
    if chance(rng, 0.8):
        protobuf.clear_data(tensor)
    tensor.float_data[:] = values


@mutation
def rename_tensor(proto: onnx.ModelProto, rng: Rng) -> None:
    graph = pick(graphs(proto), rng)
    pick(graph.initializer, rng).name = pick([*WORDS, *names(graph)], rng)


@mutation
def repeat_tensor(proto: onnx.ModelProto, rng: Rng) -> None:
    initializers = pick(graphs(proto), rng).initializer
    again = initializers.add()
    again.CopyFrom(pick(initializers[:-1], rng))
    if chance(rng):
        again.name += "_again"


@mutation
def drop_tensor(proto: onnx.ModelProto, rng: Rng) -> None:
    initializers = pick(graphs(proto), rng).initializer
    if not initializers:
        raise Impossible
    del initializers[int(rng.integers(len(initializers)))]


@mutation
def initializer_to_constant(proto: onnx.ModelProto, rng: Rng) -> None:
    graph = pick(graphs(proto), rng)
    tensor = pick(graph.initializer, rng)
    graph.node.insert(0, onnx.helper.make_node("Constant", [], [tensor.name], value=tensor))
    graph.initializer.remove(tensor)


@mutation
def external(proto: onnx.ModelProto, rng: Rng) -> None:
    """Data beside the model: the file ``data.bin`` has 64 KiB, whatever is wanted of it."""
    tensor = _tensor(proto, rng)
    length, location = len(tensor.raw_data), "data.bin"
    offset = pick(("0", "0", "64", "4096", "65535", str(2**40), "-1", "x"), rng)
    if chance(rng, 0.3):
        location = pick(("", "none", "/etc/passwd", "../out/x", ".", "model.onnx", "data.bin/x", "C:\\x", "a\0b"), rng)
    if chance(rng, 0.2):
        length = pick(SIZES, rng)
    protobuf.clear_data(tensor)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", str(length))):
        if chance(rng, 0.95):
            tensor.external_data.add(key=key, value=value)


def _tensor(proto: onnx.ModelProto, rng: Rng, kind: int | None = None) -> onnx.TensorProto:
    """A tensor with its data in the message, of one kind or any."""
    found = [one for one in protobuf.tensors(proto) if one.data_type == kind or kind is None]
    return pick([one for one in found if one.HasField("raw_data") or kind is None], rng)


def _one(data: Array, rng: Rng, value: float) -> Array:
    changed = np.array(data)
    if changed.size:
        changed.flat[int(rng.integers(changed.size))] = value
    return changed
