"""optimum: ``ORTModelForCausalLM`` or ``ORTModelForSeq2SeqLM``, whichever the folder's configuration names."""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime
import torch
from generating import Generate, answer
from optimum.onnxruntime import ORTModelForCausalLM, ORTModelForSeq2SeqLM


def open_folder(folder: Path) -> Generate:
    """A model on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    paired = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("is_encoder_decoder", False)
    kind = ORTModelForSeq2SeqLM if paired else ORTModelForCausalLM
    model = kind.from_pretrained(folder, session_options=options)

    def generate(prompt: list[int], length: int) -> list[int]:
        inputs = torch.tensor([prompt])
        ids = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=length,
            min_new_tokens=length,
            do_sample=False,
            num_beams=1,
        )[0].tolist()
        return ids[-length:]

    return generate


answer("optimum", "optimum", "optimum-onnx", open_folder)
