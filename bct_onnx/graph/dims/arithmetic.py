"""Arithmetic on sizes of which some are only known by name. None is an unknown one.

A named size is a sum of names and a number, ``past + sequence + 1``, and has one spelling. A name may stand for any
size, 0 and 1 included; what is claimed here holds for all of them, wherever the model itself runs.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable

from bct_onnx.graph.known import sizes_of, without_ones
from bct_onnx.graph.neighbours import provided

Dim = int | str | None
Dims = tuple[Dim, ...]

_LARGE = 2**30

_Sum = tuple[Counter[str], int]
"""How often each name stands in a sum, and the number in it."""


def broadcast(*shapes: Dims | None) -> Dims | None:
    """The shape of an elementwise result: 1 gives way, a number wins over a name, two different names are unknown.

    >>> broadcast(("batch", 1, 8), ("sequence", 1))
    ('batch', 'sequence', 8)
    """
    if None in shapes:
        return None
    known = provided(shapes)
    rank = max(map(len, known))
    padded = [(1,) * (rank - len(shape)) + shape for shape in known]
    return tuple(map(_joined, zip(*padded, strict=True)))


def _joined(column: tuple[Dim, ...]) -> Dim:
    sizes = set(without_ones(column))
    if len(sizes) <= 1:
        return sizes.pop() if sizes else 1
    return next(iter(sizes_of(sizes)), None)


def parse(name: str | None) -> Dim:
    """A declared name of a dimension, with sums in the one spelling that `add` gives them; digits alone are no name."""
    if not name or name.isdecimal():
        return None
    return _canonical(*_read(name))


def add(*dims: Dim) -> Dim:
    """``past + sequence``, names in alphabetical order, the number last."""
    names, number = Counter[str](), 0
    for dim in dims:
        if dim is None:
            return None
        summands, n = _read(dim)
        names, number = names + summands, number + n
    return _canonical(names, number)


def subtract(a: Dim, b: Dim) -> Dim:
    """A difference; None where it might be negative, unless it is a number.

    >>> subtract("past + sequence", "past"), subtract("sequence", 1)
    ('sequence', None)
    """
    if a is None or b is None:
        return None
    return _canonical(*_difference(a, b))


def distance(start: Dim, end: Dim) -> Dim:
    """How far it is to ``end``: 0 where that is not behind ``start``; None where either is uncertain.

    >>> distance(2, "sequence + 2"), distance("past + 1", "past"), distance("past", "sequence")
    ('sequence', 0, None)
    """
    if at_least(start, end):
        return 0
    if at_least(end, start):
        return subtract(end, start)
    return None


def at_least(a: Dim, b: Dim, margin: int = 0) -> bool:
    """Whether it is certain that ``a >= b + margin``."""
    if a is None or b is None:
        return False
    names, number = _difference(a, b)
    return number >= margin and all(count >= 0 for count in names.values())


def equal(a: Dim, b: Dim) -> bool | None:
    """Whether two sizes are equal, as far as that is known."""
    if a is None or b is None:
        return None
    names, number = _difference(a, b)
    if not any(names.values()):
        return number == 0
    if at_least(a, b, 1) or at_least(b, a, 1):
        return False
    return None


def less(a: Dim, b: Dim) -> bool | None:
    """Whether ``a < b``, as far as that is known."""
    if at_least(b, a, 1):
        return True
    return False if at_least(a, b) else None


def largest(a: Dim, b: Dim) -> Dim:
    """The larger of two, where it is certain which one that is."""
    if at_least(a, b):
        return a
    if at_least(b, a):
        return b
    return None


def smallest(a: Dim, b: Dim) -> Dim:
    """The smaller of two, where it is certain which one that is."""
    if at_least(b, a):
        return a
    if at_least(a, b):
        return b
    return None


def multiply(a: Dim, b: Dim) -> Dim:
    """A product of two numbers, or of a name and 0 or 1."""
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    if a == 1:
        return b
    if b == 1:
        return a
    return 0 if 0 in (a, b) else None


def divide(a: Dim, b: Dim) -> Dim:
    """A quotient of two numbers, rounded towards zero as ONNX divides integers, or of a name by 1 or itself."""
    if isinstance(a, int) and isinstance(b, int) and b != 0:
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    if b == 1:
        return a
    return 1 if a == b and a not in (0, None) else None


def modulo(a: Dim, b: Dim, *, like_c: bool = False) -> Dim:
    """What a division of numbers leaves, with the sign of ``b``, or that of ``a`` as in C."""
    if not isinstance(a, int) or not isinstance(b, int) or b == 0:
        return None
    if like_c:
        return int(math.copysign(1, a)) * (abs(a) % abs(b))
    return a % b


def remaining(dims: Iterable[Dim], taken: Iterable[Dim]) -> Dim:
    """What is left for -1: the product of ``dims`` over the product of ``taken``, if it is one name or a number."""
    names: list[Dim] = [dim for dim in dims if not isinstance(dim, int)]
    number = math.prod(sizes_of(dims))
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
    if not names:
        return number // divisor
    if len(names) == 1 and number == divisor:
        return names[0]
    return None


def _difference(a: int | str, b: int | str) -> _Sum:
    names, number = _read(a)
    less_names, less_number = _read(b)
    left = Counter(names)
    left.subtract(less_names)
    return left, number - less_number


def _read(dim: int | str) -> _Sum:
    if isinstance(dim, int):
        return (Counter(), int(dim))
    return _summands(dim)


@functools.lru_cache(maxsize=4096)
def _summands(name: str) -> _Sum:
    names, number = Counter[str](), 0
    for term in _terms(name):
        if term.isdecimal():
            number += int(term)
        else:
            names[term] += 1
    return names, number


def _terms(name: str) -> list[str]:
    """What stands between the plus signs outside of brackets: ``(a + 1)//2 + b`` has two terms."""
    terms, depth = [""], 0
    for letter in name:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "+" and depth == 0:
            terms.append("")
        else:
            terms[-1] += letter
    return list(map(str.strip, terms))


def _canonical(names: Counter[str], number: int) -> Dim:
    """The sum as text; None where it might be negative, which a name is never, or too large for a type of 32 bits."""
    if not any(names.values()):
        return number
    if not 0 <= number < _LARGE or min(names.values()) < 0:
        return None
    terms = sorted(names.elements())
    if number:
        terms.append(str(number))
    return " + ".join(terms)
