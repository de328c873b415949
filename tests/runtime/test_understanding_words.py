"""Models that take text: samples are of the words that the graph knows."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from bct_onnx.runtime.session import session
from bct_onnx.runtime.understanding import Sampler
from bct_onnx.runtime.understanding.meaning import ENGLISH
from tests.passes.small import normal

WORDS = [f"w{number}" for number in range(8)]


def sampler(shape: list[str], nodes: list[onnx.NodeProto], encodes: str) -> Sampler:
    """Of a model whose nodes make words ``encodes`` of its input ``text``, which are numbered and looked up."""
    number = helper.make_node(
        "LabelEncoder", [encodes], ["ids"], domain="ai.onnx.ml", keys_strings=WORDS, values_int64s=range(8)
    )
    lookup = helper.make_node("Gather", ["table", "ids"], ["y"])
    graph = helper.make_graph(
        [*nodes, number, lookup],
        "g",
        [helper.make_tensor_value_info("text", TensorProto.STRING, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(normal(8, 4), "table")],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 4)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=9))
    return Sampler(model, session(model))


def test_words_are_those_of_the_table() -> None:
    made = sampler(["batch", "seq"], [], "text")
    assert made.meaningful and set(made.sample(4, 200)["text"].flat) == set(WORDS)


def test_texts_have_a_row_of_words() -> None:
    made = sampler(["batch"], [helper.make_node("StringSplit", ["text"], ["words", "count"], delimiter="-")], "words")
    texts = made.sample(3, 5)["text"]
    assert made.meaningful and [text.count("-") for text in texts] == [4, 4, 4]
    assert set("-".join(texts).split("-")) <= set(WORDS)


def test_text_of_which_nothing_is_known_is_english() -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["text"], ["same"])],
        "g",
        [helper.make_tensor_value_info("text", TensorProto.STRING, ["batch"])],
        [helper.make_tensor_value_info("same", TensorProto.STRING, ["batch"])],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9))
    texts = Sampler(model, session(model)).sample(2, 3)["text"]
    assert isinstance(texts, np.ndarray) and set(" ".join(texts).split(" ")) <= set(ENGLISH)
