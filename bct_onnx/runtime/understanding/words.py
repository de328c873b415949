"""Inputs of text: the words that a model has a number for."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from bct_onnx.graph import operators
from bct_onnx.graph.neighbours import reached
from bct_onnx.runtime.understanding.meaning import Meaning, unknown_text

KEYS = {
    "LabelEncoder": ("keys_strings", "keys_tensor"),
    "CategoryMapper": ("cats_strings",),
    "OneHotEncoder": ("cats_strings",),
    "TfIdfVectorizer": ("pool_strings",),
}
"""Attributes of operators that list the strings they know."""

MOVES = operators.named(*operators.MOVES) | {"StringNormalizer", "StringSplit", "StringConcat"}
"""Operators out of which the strings of their first input come, or parts of these."""

MOST = 1 << 12
"""Words that are remembered of a vocabulary."""


def reading(start: ir.Value) -> Meaning:
    """An input of strings, followed to the tables of strings that it reaches.

    They are words, or where the model splits what it is given several in a text.
    """
    words: list[str] = []
    joint = ""
    for value in reached([start], _moved):
        for node in value.consumers():
            words += _known(node)
            if node.op_type == "StringSplit":
                joint = node.attributes.get_string("delimiter", "") or " "
    usable = [word for word in dict.fromkeys(words) if word and not (joint and joint in word)]
    if usable:
        return Meaning("text", words=tuple(usable[:MOST]), joint=joint)
    return unknown_text()


def _moved(value: ir.Value) -> Iterator[ir.Value]:
    """What operators make of a value that move its strings."""
    for node, index in value.uses():
        if index == 0 and node.op_type in MOVES:
            yield from node.outputs


def _known(node: ir.Node) -> Iterator[str]:
    for name in KEYS.get(node.op_type, ()):
        attribute = node.attributes.get(name)
        if attribute is None:
            continue
        if attribute.type == ir.AttributeType.STRINGS:
            yield from attribute.as_strings()
        elif attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == ir.DataType.STRING:
            yield from (bytes(word).decode() for word in attribute.as_tensor().numpy().flat)
