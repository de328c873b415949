"""The equation of an ``Einsum`` of two operands, read as a matrix product.

``abcd,cde->abe`` sums over ``c`` and ``d``: with the rows ``ab`` and the columns ``e`` it is the product of the first
operand as [a, b, c*d] and the second as [c*d, e]. Axes that both operands and the result have are those of a batch.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Sequence

from bct_onnx.graph.dims import Dims


@dataclasses.dataclass(frozen=True)
class Equation:
    """Letters of a product ``result[batch, rows, columns] = sum of left[batch, rows, inner] * right[batch, inner,
    columns]``, each group in the order in which its first operand (the result, for a batch) has it.

    Attributes:
        left: The letters of the left operand, as it is.
        right: Those of the right one.
        result: Those of the result.
        swapped: Whether the left operand is the second input.
    """

    left: str
    right: str
    result: str
    swapped: bool = False

    @property
    def batch(self) -> str:
        """Axes of both operands and of the result."""
        return _letters(_letters(self.result, self.left), self.right)

    @property
    def inner(self) -> str:
        """Axes that are summed over."""
        return _letters(self.left, self.right, but=self.result)

    @property
    def rows(self) -> str:
        """Axes of the result that the left operand alone has."""
        return _letters(self.left, self.result, but=self.right)

    @property
    def columns(self) -> str:
        """Axes of the result that the right operand alone has."""
        return _letters(self.result, self.right, but=self.left)

    @property
    def text(self) -> str:
        """The equation, with letters in place of an ellipsis."""
        return f"{self.left},{self.right}->{self.result}"

    def turned(self) -> Equation:
        """The same with the operands exchanged."""
        return Equation(self.right, self.left, self.result, not self.swapped)


def parse(text: str, shapes: Sequence[Dims | None]) -> Equation | str:
    """Read an equation of two operands; a text says why it is no matrix product.

    Args:
        text: The attribute of the operator, with ``...`` and without a result if it likes.
        shapes: Those of the operands; their ranks are needed where the equation has ``...``.
    """
    operands, arrow, result = text.replace(" ", "").partition("->")
    terms = operands.split(",")
    if len(terms) != 2 or len(shapes) != 2:
        return f"{len(terms)} operands"
    counts = [0, 0]
    for place, (term, shape) in enumerate(zip(terms, shapes, strict=True)):
        if "..." in term and shape is None:
            return "the rank of an operand with '...' is not known"
        if "..." in term and shape is not None:
            counts[place] = len(shape) - len(term.replace("...", ""))
    free = [letter for letter in string.ascii_letters if letter not in text][: max(counts, default=0)]
    if min(counts) < 0 or len(free) < max(counts):
        return "operands do not have the ranks of the equation"
    ends = ["".join(free[len(free) - count :]) for count in counts]  # right-aligned, as shapes broadcast
    left, right = (term.replace("...", end) for term, end in zip(terms, ends, strict=True))
    if arrow:
        result = result.replace("...", "".join(free))
    else:
        once = sorted(
            letter for letter in terms[0] + terms[1] if letter.isalpha() and (left + right).count(letter) == 1
        )
        result = "".join(free) + "".join(once)
    return _checked(Equation(left, right, result), shapes)


def _checked(equation: Equation, shapes: Sequence[Dims | None]) -> Equation | str:
    groups = (equation.left, equation.right, equation.result)
    if any(len(set(letters)) < len(letters) for letters in groups):
        return "a letter is repeated in one operand"
    if not set(equation.result) <= set(equation.left + equation.right):
        return "a letter of the result is in no operand"
    if not equation.inner:
        return "nothing is summed over"
    alone = (set(equation.left) ^ set(equation.right)) - set(equation.result)
    if alone:
        return f"'{min(alone)}' is summed over in one operand alone"
    for letters, shape in zip((equation.left, equation.right), shapes, strict=True):
        if shape is not None and len(shape) != len(letters):
            return "operands do not have the ranks of the equation"
    if any(_widened(letter, equation, shapes) for letter in equation.left if letter in equation.right):
        return "an axis of length 1 is widened"
    return equation


def _widened(letter: str, equation: Equation, shapes: Sequence[Dims | None]) -> bool:
    """Whether one operand has length 1 where the other has another: ONNX Runtime repeats it there."""
    left, right = shapes
    if left is None or right is None:
        return False
    sizes = {left[equation.left.index(letter)], right[equation.right.index(letter)]}
    return 1 in sizes and len(sizes) > 1


def _letters(term: str, other: str, but: str = "") -> str:
    """The letters of a term that another one has as well, except for some."""
    return "".join(letter for letter in term if letter in other and letter not in but)
