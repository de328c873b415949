"""Arithmetic on dimensions of which some are only known by name. None is an unknown one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

Dim = int | str | None
Dims = tuple[Dim, ...]


def broadcast(*shapes: Dims | None) -> Dims | None:
    """The shape of an elementwise result: 1 gives way, a number wins over a name, two different names are unknown.

    >>> broadcast(("batch", 1, 8), ("sequence", 1))
    ('batch', 'sequence', 8)
    """
    if any(shape is None for shape in shapes):
        return None
    known = [shape for shape in shapes if shape is not None]
    rank = max(len(shape) for shape in known)
    padded = [(1,) * (rank - len(shape)) + shape for shape in known]
    return tuple(_joined(column) for column in zip(*padded, strict=True))


def _joined(column: tuple[Dim, ...]) -> Dim:
    sizes = {dim for dim in column if dim != 1}
    if len(sizes) <= 1:
        return sizes.pop() if sizes else 1
    return next((dim for dim in sizes if isinstance(dim, int)), None)


def parse(name: str | None) -> Dim:
    """A declared dimension name, with sums in the one spelling that `add` gives them."""
    return None if name is None else add(*(int(part) if part.isdigit() else part for part in _terms(name)))


def _terms(dim: int | str) -> list[str]:
    return [part.strip() for part in dim.split("+")] if isinstance(dim, str) else [str(dim)]


def add(*dims: Dim) -> Dim:
    """``past + sequence``, names in alphabetical order, the number last."""
    if any(dim is None for dim in dims):
        return None
    terms = [term for dim in dims if dim is not None for term in _terms(dim)]
    number = sum(int(term) for term in terms if _is_number(term))
    names = sorted(term for term in terms if not _is_number(term))
    return " + ".join([*names, str(number)] if number else names) if names else number


def subtract(a: Dim, b: Dim) -> Dim:
    """What is left of a sum without some of its terms; None where a term is not in it.

    >>> subtract("past + sequence", "past"), subtract("sequence", 1)
    ('sequence', None)
    """
    if isinstance(a, int) and isinstance(b, int):
        return a - b
    if a is None or b is None:
        return None
    left, right = _terms(a), _terms(b)
    for term in right:
        if term not in left:
            return None if term != "0" else a
        left.remove(term)
    return add(*(int(term) if _is_number(term) else term for term in left)) if left else 0


def _is_number(term: str) -> bool:
    return term.lstrip("-").isdigit()


def multiply(a: Dim, b: Dim) -> Dim:
    """A product of two numbers, or of a name and 0 or 1."""
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    return b if a == 1 else a if b == 1 else 0 if 0 in (a, b) else None


def divide(a: Dim, b: Dim) -> Dim:
    """A quotient of two numbers, rounded towards zero as ONNX divides integers, or of a name by 1 or itself."""
    if isinstance(a, int) and isinstance(b, int) and b != 0:
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return a if b == 1 else 1 if a == b and a not in (0, None) else None


def equal(a: Dim, b: Dim) -> Dim:
    """Whether two sizes are equal, as far as that is known: a named one is never negative."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    if a is None or b is None:
        return None
    number = a if isinstance(a, int) else b if isinstance(b, int) else 0
    return False if number < 0 else True if a == b else None


def remaining(dims: Iterable[Dim], taken: Iterable[Dim]) -> Dim:
    """What is left for -1: the product of ``dims`` over the product of ``taken``, if it is one name or a number."""
    names: list[Dim] = [dim for dim in dims if not isinstance(dim, int)]
    number = int(np.prod([dim for dim in dims if isinstance(dim, int)], dtype=np.int64))
    divisor = 1
    for dim in taken:
        if isinstance(dim, int):
            divisor *= dim
        elif dim is not None and dim in names:
            names.remove(dim)
        else:
            return None
    if None in names or divisor == 0 or number % divisor:
        return None
    return number // divisor if not names else names[0] if len(names) == 1 and number == divisor else None
