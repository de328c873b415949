"""The configuration by which onnxruntime-genai runs a decoder: sizes, special tokens, names of inputs and outputs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx

from bct_onnx.errors import UsageError
from bct_onnx.graph.names import names_of

CONFIG = "genai_config.json"

_SIZES = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "num_attention_heads": ("num_attention_heads", "n_head", "num_heads"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "context_length": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
    "vocab_size": ("vocab_size",),
}
"""What genai calls a size, and what configurations of transformers call it."""

_SEARCH = {
    "do_sample": False,
    "early_stopping": True,
    "length_penalty": 1.0,
    "min_length": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "past_present_share_buffer": False,
    "repetition_penalty": 1.0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
}
"""Search options: greedy, and a cache that grows with each step, as exports of transformers give it back."""


def config_of(model: Path, config: Mapping[str, Any]) -> str:
    """The text of ``genai_config.json`` for a decoder with a cache.

    Args:
        model: The decoder; its inputs and outputs are read, its weights are not.
        config: The ``config.json`` of the checkpoint.

    Raises:
        UsageError: The model has no cache, or the configuration lacks a size.
    """
    graph = onnx.load(model, load_external_data=False).graph
    initializers = set(names_of(graph.initializer))
    inputs = [value.name for value in graph.input if value.name not in initializers]
    outputs = names_of(graph.output)
    sizes = {name: _first(config, keys) for name, keys in _SIZES.items()}
    missing = [name for name, size in sizes.items() if size is None]
    pasts, presents = _templates(inputs), _templates(outputs)
    if missing or len(pasts) != 2 or len(presents) != 2:
        why = "it runs decoders with a cache of keys and values"
        raise UsageError(
            "the folder cannot be written for onnxruntime-genai",
            where=str(model.name),
            why=f"config.json lacks {', '.join(missing)}" if missing else why,
            fix="export the model with its cache ('bct-onnx export --cache'), or use another --layout",
        )
    heads = sizes["num_attention_heads"]
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": model.name,
        "head_size": config.get("head_dim") or sizes["hidden_size"] // heads,
        "hidden_size": sizes["hidden_size"],
        "num_attention_heads": heads,
        "num_hidden_layers": sizes["num_hidden_layers"],
        "num_key_value_heads": config.get("num_key_value_heads") or heads,
        "inputs": _plain(inputs) | {"past_key_names": pasts[0], "past_value_names": pasts[1]},
        "outputs": _plain(outputs) | {"present_key_names": presents[0], "present_value_names": presents[1]},
    }
    tokens = {name: _token(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    about = {
        "type": "decoder",  # any decoder; by a family's own name, gpt2 among them, genai asks for other inputs
        "context_length": sizes["context_length"],
        "vocab_size": sizes["vocab_size"],
        **tokens,
        "decoder": decoder,
    }
    return json.dumps({"model": about, "search": _SEARCH | {"max_length": sizes["context_length"]}}, indent=2) + "\n"


def with_file_name(text: str, name: str) -> str:
    """A ``genai_config.json`` whose decoder is the file ``name``."""
    config = json.loads(text)
    config["model"]["decoder"]["filename"] = name
    return json.dumps(config, indent=2) + "\n"


def _first(config: Mapping[str, Any], keys: Iterable[str]) -> Any:
    for key in keys:
        if config.get(key) is not None:
            return config[key]
    return None


def _token(config: Mapping[str, Any], name: str) -> int | list[int]:
    """A special token; without one of its own, padding is the end of a text, and a text begins with its end."""
    token = config.get(name)
    if token is None:
        token = config.get("eos_token_id", 0)
    if isinstance(token, list) and name != "eos_token_id":
        return int(token[0])
    if isinstance(token, list):
        return list(token)
    return int(token or 0)


def _templates(names: Iterable[str]) -> list[str]:
    """Names of keys and of values in a cache with ``%d`` for the layer, keys first.

    >>> _templates(["input_ids", "past_key_values.0.key", "past_key_values.0.value", "past_key_values.1.key"])
    ['past_key_values.%d.key', 'past_key_values.%d.value']
    """
    layer = re.compile(r"\.\d+\.(?=key$|value$)")
    return sorted({layer.sub(".%d.", name) for name in names if layer.search(name)})


def _plain(names: Iterable[str]) -> dict[str, str]:
    """The other inputs or outputs, each under its own name."""
    return {name: name for name in names if not re.search(r"\.\d+\.", name)}
