"""Find weights that are stored more than once: byte for byte, or as each other's transpose.

Data is read in strips from where it lies (a memory-mapped file, usually) and only for tensors that agree in type,
shape and a sample, so that a model of distinct weights is hardly read at all.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from bct_onnx.graph import tensors
from bct_onnx.quant.strips import slices, slices_of

STRIP = 1 << 22
"""Elements compared at a time."""

_SAMPLE = 64


def equal(values: Iterable[ir.Value]) -> list[tuple[ir.Value, ir.Value]]:
    """Pairs ``(duplicate, original)`` of initializers of equal type, shape and bytes; originals come first."""
    groups: defaultdict[tuple[object, ...], list[ir.Value]] = defaultdict(list)
    for value in values:
        if value.const_value is not None:
            groups[value.const_value.dtype, tuple(value.const_value.shape)].append(value)
    pairs = []
    for group in groups.values():
        if len(group) > 1:
            pairs += _equal_in_group(group)
    return pairs


def merge(graph: ir.Graph) -> list[tuple[str, ir.Value]]:
    """Let equal initializers of ``graph`` be one; return the name of each one removed with what took its place.

    Initializers that are inputs or outputs of the graph are left alone.
    """
    values = graph.initializers.values()
    pairs = equal([value for value in values if not (value.is_graph_output() or value.is_graph_input())])
    merged = [(duplicate.name or "", original) for duplicate, original in pairs]
    for duplicate, original in pairs:
        duplicate.replace_all_uses_with(original)
        del graph.initializers[duplicate.name or ""]
    return merged


def is_transpose(matrix: ir.Value, other: ir.Value) -> bool:
    """Whether two initializers are float matrices of equal type, the one [R, C] the transpose of the other [C, R]."""
    a, b = matrix.const_value, other.const_value
    if a is None or b is None or a.dtype != b.dtype or tuple(a.shape) != tuple(b.shape)[::-1] or len(a.shape) != 2:
        return False
    if not _transposed_sample(matrix, other):
        return False
    rows, columns = a.shape.numpy()
    return all(map(functools.partial(_transposed_strip, matrix, other), slices_of(rows, columns, STRIP)))


def _transposed_sample(matrix: ir.Value, other: ir.Value) -> bool:
    left, right = tensors.array(matrix), tensors.array(other)
    rows, columns = (np.linspace(0, size - 1, _SAMPLE).astype(int) for size in left.shape)
    same = np.array_equal(left[rows, columns], right[columns, rows])
    del left, right
    tensors.release(matrix)
    tensors.release(other)
    return same


def _transposed_strip(matrix: ir.Value, other: ir.Value, rows: slice) -> bool:
    same = np.array_equal(tensors.array(matrix)[rows], tensors.array(other)[:, rows].T)
    tensors.release(matrix)  # between two strips, not at the end: pages count as memory used until then
    tensors.release(other)
    return same


def _equal_in_group(group: list[ir.Value]) -> list[tuple[ir.Value, ir.Value]]:
    pairs = []
    originals: defaultdict[bytes, list[ir.Value]] = defaultdict(list)
    for value in group:
        candidates = originals[_sample(value)]
        original = next((candidate for candidate in candidates if _same_bytes(candidate, value)), None)
        if original is None:
            candidates.append(value)
        else:
            pairs.append((value, original))
    return pairs


def _sample(value: ir.Value) -> bytes:
    data = _flat(value)
    sample = data[np.linspace(0, data.size - 1, _SAMPLE).astype(int)] if data.size > _SAMPLE else data
    key = repr(sample.tolist()).encode() if sample.dtype == object else sample.tobytes()
    tensors.release(value)
    return key


def _same_bytes(tensor: ir.Value, other: ir.Value) -> bool:
    return all(map(functools.partial(_same_strip, tensor, other), slices(_flat(tensor).size, STRIP)))


def _same_strip(tensor: ir.Value, other: ir.Value, elements: slice) -> bool:
    same = _key(_flat(tensor)[elements]) == _key(_flat(other)[elements])
    tensors.release(tensor)
    tensors.release(other)
    return same


def _key(strip: tensors.Array) -> object:
    """Bytes where there are any: by value, -0.0 would equal 0.0 and NaN differ from itself."""
    if strip.dtype == object:
        return strip.tolist()
    return strip.tobytes()


def _flat(value: ir.Value) -> tensors.Array:
    return tensors.array(value).reshape(-1)
