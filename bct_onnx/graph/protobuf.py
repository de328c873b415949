"""Just enough of the protobuf wire format to keep the weights of a single-file model on disk.

protobuf parses and builds a message as a whole: a 1 GB model costs 2 to 3 GB of memory to read and as much to write.
The format itself is a plain sequence of (tag, length, bytes), so the big byte strings can be left where they are when
reading, and copied through when writing. Format: https://protobuf.dev/programming-guides/encoding/. Field numbers:
onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from mmap import mmap
from typing import NamedTuple

import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]  # the stubs are a separate package

from bct_onnx.graph.names import names_of

BIG = 1 << 20
"""Byte strings longer than this are left on disk."""

GRAPH_FIELD = 7
INITIALIZER_FIELD = 5
RAW_DATA_FIELD = 9

_EXTERNAL_DATA_FIELD, _DATA_LOCATION_FIELD = 13, 14
_MESSAGES = {  # where tensors hide: field number -> message, per message
    "model": {GRAPH_FIELD: "graph"},
    "graph": {1: "node", INITIALIZER_FIELD: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph"},
}
_DEEPEST = 100
_LENGTH_DELIMITED = 2
_FIXED_SIZES = {1: 8, 5: 4}


def undeclared(names: Iterable[str]) -> list[onnx.ValueInfoProto]:
    """Values of a graph of which nothing is declared but their names."""
    return [onnx.ValueInfoProto(name=name) for name in names]


def point(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Say in which file, and where in it, the data of a tensor lies."""
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def expose(graph: onnx.GraphProto, names: Iterable[str]) -> None:
    """Make values outputs of a graph, those that are none yet."""
    present = set(names_of(graph.output))
    for name in names:
        if name not in present:
            graph.output.append(onnx.ValueInfoProto(name=name))


class Malformed(ValueError):
    """The bytes are not a protobuf message."""


class Truncated(Malformed):
    """The bytes end before a field does."""


def skeleton(data: mmap, location: str) -> bytes:
    """The serialized ModelProto in `data`, with every big `raw_data` replaced by a reference to its place in `data`.

    Args:
        data: A whole file holding one serialized ModelProto.
        location: The file's name, for the `location` of the references.

    Raises:
        Truncated: A field is longer than what is left of the file.
        Malformed: A tag or a length is not valid.
    """
    return _without_big_tensors(data, 0, len(data), ("model",), location)


def key(field: int, length: int) -> bytes:
    """The bytes in front of a length-delimited field of `length` bytes.

    >>> key(GRAPH_FIELD, 300).hex()
    '3aac02'
    """
    return _varint(field << 3 | _LENGTH_DELIMITED) + _varint(length)


def check_text(message: Message) -> None:
    """Read every string in `message`: parsing leaves it to the first use of one to find that it is not UTF-8.

    Raises:
        UnicodeDecodeError: One is not.
    """
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_MESSAGE, field.TYPE_STRING):
            continue
        for item in value if field.is_repeated else (value,):
            if isinstance(item, Message):
                check_text(item)
            elif isinstance(item, bytes):
                item.decode()


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initializers and attributes, in subgraphs and functions too."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _attribute_tensors(function.attribute_proto)
        for node in function.node:
            yield from _attribute_tensors(node.attribute)


def subgraphs(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.GraphProto]:
    """The graphs directly in `attributes`."""
    for attribute in attributes:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def tidy(graph: onnx.GraphProto) -> set[str]:
    """Remove what only costs space: initializers that nothing uses, and entries that repeat an initializer's type.

    Returns the names that the graph and its subgraphs use.
    """
    used = set(names_of(graph.output))
    for node in graph.node:
        used.update(node.input)
        for inner in subgraphs(node.attribute):
            used |= tidy(inner)
    kept = used | set(names_of(graph.input))
    constants = set(names_of(graph.initializer))
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name not in kept:
            del graph.initializer[i]
    for i in reversed(range(len(graph.value_info))):
        if graph.value_info[i].name in constants:
            del graph.value_info[i]
    return used


def clear_data(tensor: onnx.TensorProto) -> None:
    """Remove the data of a tensor message, or its reference to external data."""
    for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "raw_data"):
        tensor.ClearField(field)
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        yield from _attribute_tensors(node.attribute)


def _attribute_tensors(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
    for graph in subgraphs(attributes):
        yield from _graph_tensors(graph)


class _Field(NamedTuple):
    number: int
    wire_type: int
    start: int
    payload: int
    end: int


def _without_big_tensors(data: mmap, start: int, end: int, path: tuple[str, ...], location: str) -> bytes:
    pieces, copied = [], start
    if len(path) > _DEEPEST:  # parsers refuse this depth
        return data[start:end]
    for field in _fields(data, start, end):
        inner = _MESSAGES[path[-1]].get(field.number)
        if inner is None or field.wire_type != _LENGTH_DELIMITED or field.end - field.payload <= BIG:
            continue
        if inner == "tensor":
            body = _without_raw_data(data, field.payload, field.end, location)
        else:
            body = _without_big_tensors(data, field.payload, field.end, (*path, inner), location)
        pieces += [data[copied : field.start], key(field.number, len(body)), body]
        copied = field.end
    return b"".join([*pieces, data[copied:end]])


def _without_raw_data(data: mmap, start: int, end: int, location: str) -> bytes:
    fields = list(_fields(data, start, end))
    numbers = [field.number for field in fields]
    raw = [field for field in fields if field.number == RAW_DATA_FIELD and field.wire_type == _LENGTH_DELIMITED]
    if len(raw) != 1 or _EXTERNAL_DATA_FIELD in numbers or _DATA_LOCATION_FIELD in numbers:
        return data[start:end]
    return data[start : raw[0].start] + data[raw[0].end : end] + _reference(location, raw[0])


def _reference(location: str, raw: _Field) -> bytes:
    tensor = onnx.TensorProto()
    point(tensor, location, raw.payload, raw.end - raw.payload)
    return bytes(tensor.SerializeToString())


def _fields(data: mmap, position: int, end: int) -> Iterator[_Field]:
    while position < end:
        start = position
        tag, position = _read_varint(data, position, end)
        number, wire_type = tag >> 3, tag & 7
        payload = position
        if wire_type == 0:
            _, position = _read_varint(data, position, end)
        elif wire_type == _LENGTH_DELIMITED:
            length, payload = _read_varint(data, position, end)
            position = payload + length
        elif wire_type in _FIXED_SIZES:
            position += _FIXED_SIZES[wire_type]
        else:
            raise Malformed(f"byte {start} is not the start of a protobuf field")
        if number == 0:
            raise Malformed(f"byte {start} is not the start of a protobuf field")
        if position > end:
            raise Truncated(f"field {number} at byte {start} needs {position - end:,} more bytes than there are")
        yield _Field(number, wire_type, start, payload, position)


def _read_varint(data: mmap, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise Truncated(f"the data ends at byte {position} in the middle of a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise Malformed(f"byte {position} is in a number of more than 10 bytes")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
