"""Where clients look for models in a folder, and how they load it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import PurePosixPath
from types import MappingProxyType

from bct_onnx.graph.names import by_name

VARIANTS = ("quantized", "q4", "q4f16", "q8", "int8", "uint8", "fp16", "bnb4", "int4", "O1", "O2", "O3", "O4")
"""Endings of names (``model_q4.onnx``) of what was made of a model: not inputs of a rewrite."""

FLOATS, FEW_BITS, CODES = "", "q4", "quantized"
"""What transformers.js calls files with nothing quantized, with weights of few bits and float activations, and with
integer products."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one client keeps a model.

    Attributes:
        name: What ``--layout`` calls it.
        subfolder: Where models are, below the folder; empty for the folder itself.
        suffixed: Whether a compressed model has its own name, for which the client asks (``dtype``).
        data_name: Name of external data, of which ``{name}`` is the model's file name.
        card: Lines of Python or JavaScript that load the folder ``{folder}``; ``{dtype}`` is the suffix's name, and
            what depends on the task is filled in by `bct_onnx.folders.card`.
        language: Of the card.
    """

    name: str
    subfolder: str
    suffixed: bool
    data_name: str
    card: str
    language: str = "python"

    def place(self, name: str, variant: str) -> PurePosixPath:
        """Path below the folder of the compressed model that was called ``name`` (``model.onnx``).

        >>> str(LAYOUTS["transformers.js"].place("model.onnx", "q4")), str(LAYOUTS["optimum"].place("model.onnx", "q4"))
        ('onnx/model_q4.onnx', 'model.onnx')
        """
        suffix = f"_{variant}" if self.suffixed and variant else ""
        return PurePosixPath(self.subfolder) / f"{PurePosixPath(name).stem}{suffix}.onnx"


_OPTIMUM = """\
from optimum.onnxruntime import {auto}
from transformers import {reader}

{reads} = {reader}.from_pretrained("{folder}")
model = {auto}.from_pretrained("{folder}")
{use}"""

_SENTENCES = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{folder}", backend="onnx")
vectors = model.encode(["a text", "another"])"""

_BROWSER = """\
import {{ pipeline, env }} from "@huggingface/transformers";

env.localModelPath = "..."; // the folder that holds {folder}
const run = await pipeline("{task}", "{folder}", {{ dtype: "{dtype}" }});
console.log(await run("{example}"));"""

_GENAI = """\
import onnxruntime_genai as og

model = og.Model("{folder}")
tokenizer = og.Tokenizer(model)
generator = og.Generator(model, og.GeneratorParams(model))
generator.append_tokens(tokenizer.encode("a text"))
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)))"""

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    by_name(
        (
            Layout("optimum", "", False, "{name}_data", _OPTIMUM),
            Layout("transformers.js", "onnx", True, "{name}_data", _BROWSER, "javascript"),
            Layout("sentence-transformers", "onnx", False, "{name}_data", _SENTENCES),
            Layout("genai", "", False, "{name}.data", _GENAI),
        )
    )
)
"""Every layout by name."""


def is_variant(name: str) -> bool:
    """Whether a file's name says that it was made of another model.

    >>> [is_variant(name) for name in ("model.onnx", "model_q4.onnx", "model_qint8_avx512.onnx", "decoder_model.onnx")]
    [False, True, True, False]
    """
    ending = PurePosixPath(name).stem.partition("_q")
    last = PurePosixPath(name).stem.rpartition("_")[2]
    return last in VARIANTS or ending[2].startswith(("int", "uint"))


def dtype_of(variant: str) -> str:
    """What transformers.js calls the file ``model_VARIANT.onnx`` in its option ``dtype``."""
    return {CODES: "q8", FLOATS: "fp32"}.get(variant, variant)
