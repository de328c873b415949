"""A checkpoint as PyTorch sees it: which class, which task, which inputs."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bct_onnx.errors import InputModelError

TASKS = {
    "automatic-speech-recognition": "AutoModelForSpeechSeq2Seq",
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "question-answering": "AutoModelForQuestionAnswering",
    "text-classification": "AutoModelForSequenceClassification",
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "token-classification": "AutoModelForTokenClassification",
}
"""Task, by the name the Hugging Face hub gives it, and the class of transformers that loads a model for it."""

WITH_ENCODER = ("text2text-generation", "automatic-speech-recognition")
"""Tasks of an encoder whose decoder writes a text of its own."""

AXES = ("batch_size", "sequence_length")
"""Names of the dynamic dimensions, the same as optimum gives them."""

FRAMES = 2
"""Frames of a spectrogram for each position of Whisper's encoder, whose second convolution takes every other one."""

TRACED = (2, 16)
"""Batch and length of the inputs that the exporters trace."""

_SUFFIXES = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "WhisperForConditionalGeneration": "automatic-speech-recognition",
    "ForPreTraining": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForConditionalGeneration": "text2text-generation",
    "Model": "feature-extraction",
}


def task_of(architectures: Iterable[str]) -> str:
    """The task of the first class of transformers whose name tells one; empty where none does.

    >>> task_of(["BertForSequenceClassification"]), task_of(["GPT2LMHeadModel"]), task_of([])
    ('text-classification', 'text-generation', '')
    """
    for architecture in architectures:
        for suffix, task in _SUFFIXES.items():
            if architecture.endswith(suffix):
                return task
    return ""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A loaded model with what an export has to know about it.

    Attributes:
        model: The ``transformers`` model, in evaluation mode, returning named outputs and no cache.
        task: A key of `TASKS`.
    """

    model: Any
    task: str

    @property
    def decodes(self) -> bool:
        """Whether this is a decoder that can have a cache of keys and values."""
        return self.task == "text-generation" or self.task in WITH_ENCODER

    def sample(self, batch: int, length: int, padded: int = 0, seed: int = 0) -> dict[str, Any]:
        """Inputs as int64 tensors [batch, length]; the last ``padded`` tokens of the last row are padding.

        What hears has a spectrogram of the length that it was made for instead, float32 [batch, bands, frames], and
        ``length`` tokens of its decoder.
        """
        import torch

        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, self.model.config.vocab_size, (batch, length), generator=generator)
        if self.task == "automatic-speech-recognition":
            shape = (batch, self.model.config.num_mel_bins, FRAMES * self.model.config.max_source_positions)
            return {"input_features": torch.randn(shape, generator=generator), "decoder_input_ids": ids}
        mask = torch.ones_like(ids)
        mask[-1, length - padded :] = 0
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self._has_segments():
            inputs["token_type_ids"] = torch.zeros_like(ids)
        if self.task == "text2text-generation":
            inputs["decoder_input_ids"] = ids.flip(1)
        return inputs

    def _has_segments(self) -> bool:
        accepted = inspect.signature(self.model.forward).parameters
        return "token_type_ids" in accepted and getattr(self.model.config, "type_vocab_size", 0) > 1

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Outputs of PyTorch by name, as float32 arrays; what is not one tensor (states, caches) is left out."""
        import torch

        with torch.inference_mode():
            outputs = self.model(**inputs)
        return {name: value.float().numpy() for name, value in outputs.items() if torch.is_tensor(value)}


def read(model: str | Path, task: str, *, attention: str, dtype: str) -> Checkpoint:
    """Load a checkpoint for ``task`` (``auto``: from its architecture) in the type ``fp32`` or ``fp16``.

    Raises:
        InputModelError: No checkpoint there, or an architecture without a known task.
    """
    source = _locate(model)  # before the imports, which take seconds

    import torch
    import transformers

    config = _config(source)
    task = _task_of(config, source) if task == "auto" else task
    chosen = {} if attention == "default" else {"attn_implementation": attention}
    loader = getattr(transformers, TASKS[task])
    number = torch.float32 if dtype == "fp32" else torch.float16
    loaded = loader.from_pretrained(source, dtype=number, **chosen).eval()
    loaded.config.return_dict = True
    loaded.config.use_cache = False
    return Checkpoint(loaded, task)


def _locate(model: str | Path) -> str:
    """The folder, checked, or the hub id as it is."""
    text, path = str(model), Path(model)
    if path.is_dir():
        if not (path / "config.json").is_file():
            fix = "name the folder that has config.json and the weights, such as model.safetensors"
            raise InputModelError("not a checkpoint: no config.json in this folder", where=text, fix=fix)
        return text
    if path.exists() or isinstance(model, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1:
        why = "this is a file" if path.exists() else ""
        fix = "name a folder with config.json and model.safetensors, or an id on the Hugging Face hub"
        raise InputModelError("no such checkpoint folder", where=text, why=why, fix=fix)
    return text


def _config(source: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source)
    except OSError as error:
        if Path(source).is_dir():
            why = str(error).splitlines()[0]
            raise InputModelError("not a checkpoint: its config.json is damaged", where=source, why=why) from error
        raise InputModelError(
            "no such folder, and not to be had from the Hugging Face hub",
            where=source,
            why=str(error).splitlines()[0],
            fix="check the spelling and the network, or download the checkpoint and name its folder",
        ) from error
    except ValueError as error:
        fix = "this needs a newer transformers, or is not a transformers checkpoint"
        raise InputModelError("unknown architecture", where=source, why=str(error).splitlines()[0], fix=fix) from error


def _task_of(config: Any, source: str) -> str:
    task = task_of(config.architectures or ())
    if task:
        return task
    architectures = ", ".join(config.architectures or ()) or "none"
    why = f"its config.json names the architecture: {architectures}"
    raise InputModelError("cannot tell the task of this checkpoint", where=source, why=why, fix="name it with --task")
