"""Which layer of a model a node or a tensor belongs to, as its name tells."""

from __future__ import annotations

import re
from collections.abc import Iterable

OUTSIDE = "outside of layers"
"""What no layer has: embeddings, heads, masks."""

_NUMBERED = re.compile(r"(?:^|[./])([A-Za-z][A-Za-z_]*)[./](\d+)(?=[./]|$)")
_STACKS = ("encoder", "decoder")


def layer_of(name: str) -> str:
    """The layer that a name speaks of, by the first number that stands alone in it.

    >>> layer_of("/encoder/layer.3/attention/self/query/MatMul"), layer_of("model.layers.11.mlp.down_proj.weight")
    ('layer 3', 'layer 11')
    >>> layer_of("decoder.block.0.layer.1.EncDecAttention.q.weight"), layer_of("/embeddings/Add_1")
    ('decoder 0', 'outside of layers')
    """
    numbered = _NUMBERED.search(name)
    if numbered is None:
        return OUTSIDE
    before = re.split(r"[./]", name[: numbered.start(2)])
    stack = next((word for word in before if word in _STACKS), "")
    return f"{stack if stack == 'decoder' else 'layer'} {int(numbered[2])}"


def in_order(layers: Iterable[str]) -> list[str]:
    """Layers as they follow each other; what is outside of them comes first.

    >>> in_order(["layer 10", "layer 2", OUTSIDE])
    ['outside of layers', 'layer 2', 'layer 10']
    """
    return sorted(set(layers), key=_place)


def _place(layer: str) -> tuple[str, int]:
    stack, _, number = layer.rpartition(" ")
    if layer == OUTSIDE:
        return ("", -1)
    return ({"layer": "a"}.get(stack, stack), int(number))
