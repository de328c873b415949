"""A family's model in PyTorch, with random weights that behave like trained ones, and samples of its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from models.matrix.families import Family

Sample = dict[str, Any]
"""Tensors by name."""

DYNAMIC = {
    "input_ids": ("batch_size", "sequence_length"),
    "attention_mask": ("batch_size", "sequence_length"),
    "token_type_ids": ("batch_size", "sequence_length"),
    "decoder_input_ids": ("batch_size", "decoder_sequence_length"),
    "pixel_values": ("batch_size",),
    "input_features": ("batch_size",),
    "input_values": ("batch_size", "audio_length"),
}
"""Names of the dynamic axes of each input, from the first on."""

TYPES = {
    "fp32": ("float32",),
    "fp16": ("float16",),
    "bf16": ("bfloat16",),
    "bf16 as fp32": ("bfloat16", "float32"),
}
"""Types that weights are converted to, one after the other."""

FRAMES = 400
"""Samples of sound per position of the others' sequences."""


def build(family: Family, dtype: str, **options: Any) -> Any:
    """The model in evaluation mode, without a cache, in a type of ``TYPES``."""
    import torch
    import transformers

    torch.manual_seed(0)
    kind = getattr(transformers, family.model)
    model = kind(kind.config_class(**family.config, **options)).eval()
    model.config.return_dict = True
    for config in (model.config, *(getattr(model.config, name, None) for name in ("text_config", "decoder"))):
        if hasattr(config, "use_cache"):
            config.use_cache = False
    _spread(model)
    for name in TYPES[dtype]:
        model = model.to(getattr(torch, name))
    return model


def _spread(model: Any) -> None:
    """Weights that keep the size of what goes through them; what starts as constants becomes none.

    The initialization of transformers makes outputs that hardly depend on the inputs, and norms and biases that do
    nothing: a rewrite that loses them would not be noticed.
    """
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not value.is_floating_point() or "original" in name:  # weight norm is given by two factors
                continue
            noise = torch.randn(value.shape, generator=generator)
            if value.dim() > 1:
                fan_in = value.shape[1:].numel() if value.dim() > 2 else value.shape[-1]
                is_table = any(part in name for part in ("embed", "wte", "wpe", "shared", "word"))
                value.copy_(noise * (0.7 if is_table and value.dim() == 2 else 1 / math.sqrt(fan_in)))
            elif float(value.std()) == 0.0 if value.numel() > 1 else False:
                value.add_(noise * 0.1)


def sample(family: Family, model: Any, batch: int, length: int, padded: int = 0) -> Sample:
    """Inputs; the last ``padded`` tokens of the last row are padding."""
    import torch

    generator = torch.Generator().manual_seed(7)
    made: Sample = {}
    for name in family.takes:
        made[name] = MAKERS[name](model.config, batch, length, generator)
    if "attention_mask" in made and padded:
        made["attention_mask"][-1, length - padded :] = 0
    number = next(model.parameters()).dtype
    return {name: value.to(number) if value.is_floating_point() else value for name, value in made.items()}


def _ids(config: Any, batch: int, length: int, generator: Any) -> Any:
    import torch

    text = getattr(config, "text_config", config)
    return torch.randint(4, text.vocab_size, (batch, length), generator=generator)


def _mask(config: Any, batch: int, length: int, generator: Any) -> Any:
    import torch

    return torch.ones((batch, length), dtype=torch.int64)


def _types(config: Any, batch: int, length: int, generator: Any) -> Any:
    import torch

    return torch.zeros((batch, length), dtype=torch.int64)


def _target(config: Any, batch: int, length: int, generator: Any) -> Any:
    return _ids(config, batch, length // 2 + 1, generator)


def _picture(config: Any, batch: int, length: int, generator: Any) -> Any:
    import torch

    size = getattr(config, "vision_config", config).image_size
    return torch.randn((batch, 3, size, size), generator=generator)


def _spectrum(config: Any, batch: int, length: int, generator: Any) -> Any:
    import torch

    return torch.randn((batch, config.num_mel_bins, 2 * config.max_source_positions), generator=generator)


def _sound(config: Any, batch: int, length: int, generator: Any) -> Any:
    import torch

    return torch.randn((batch, FRAMES * length), generator=generator)


MAKERS: dict[str, Callable[[Any, int, int, Any], Any]] = {
    "input_ids": _ids,
    "attention_mask": _mask,
    "token_type_ids": _types,
    "decoder_input_ids": _target,
    "pixel_values": _picture,
    "input_features": _spectrum,
    "input_values": _sound,
}
"""How each input is made: from the configuration, the batch, the length and a generator."""
