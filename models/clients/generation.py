"""Do the clients that generate text choose the same tokens as ONNX Runtime does by itself, and how fast?

    python -m models.clients.generation genai --cache FOLDER --decoder CHECKPOINT --markdown TABLE.md

makes what is missing of a decoder's and an encoder-decoder's folders, in the layout that each client loads, asks the
clients (scripts in ``python/``, each run by ``--python``), and writes the table of all answers so far. The decoder is a
trained checkpoint; the encoder-decoder has random weights, since what it tells is whether its parts fit together.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import QuantType, quantize_dynamic

from bct_onnx import Options, rewrite
from bct_onnx.exporting import Recipe, export
from bct_onnx.folders import rewrite_folder
from bct_onnx.report import Report
from models.clients import table

NATIVE = "onnxruntime"
CLIENTS = {
    NATIVE: "generate_with_onnxruntime.py",
    "genai": "generate_with_genai.py",
    "optimum": "generate_with_optimum.py",
}
PRESETS = ("bct-plus", "fast", "w4a8-nearest", "w4")
FP32, DYNAMIC = "fp32", "quantize_dynamic"
MODEL_KINDS = ("decoder", "encoder-decoder")
PROMPTS, PROMPT, ADDED = 4, 32, 48
"""Prompts, tokens of each, tokens added to each."""

_HEAD = f"""# Clients that generate

Made by `python -m models.clients.generation CLIENT ... --cache FOLDER --decoder gpt2-ptb --markdown
models/results/generation.md`; {{machine}}. The decoder is gpt2-ptb, with its cache; the encoder-decoder a T5 of random
weights, exported by optimum.

A cell: of {ADDED} tokens added to each of {PROMPTS} prompts of {PROMPT}, greedily, how many are those that ONNX Runtime
by itself chooses with the same file; milliseconds a token, the prompt's share included, by the least of the rounds.
`no`: the client does not load the folder; why stands below.
"""


def main() -> int:
    """Make the folders, ask the clients, write the table."""
    options = _options()
    if options.decoder is not None:
        _make(options.cache / "decoder", _exported(options.cache / "decoder", options.decoder), options.presets)
        pair = _random_pair(options.cache / "encoder-decoder")
        _make(options.cache / "encoder-decoder", pair, options.presets)
    for client, kind in itertools.product(options.clients, MODEL_KINDS):
        if (kind, client) != ("encoder-decoder", "genai"):
            table.keep(options.cache / kind, _asked(client, options.cache / kind, options))
    if options.markdown is not None:
        answers = {kind: table.read(options.cache / kind) for kind in MODEL_KINDS}
        options.markdown.write_text(markdown(answers), encoding="utf-8")
    return 0


def _exported(home: Path, checkpoint: Path) -> Path:
    """The decoder with its cache, beside its configuration and tokenizer."""
    source = home / "source"
    if not source.exists():
        shutil.copytree(checkpoint, source, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
        export(checkpoint, source / "model.onnx", Recipe(cache=True))
    return source


def _random_pair(home: Path) -> Path:
    """A small T5: its encoder, its decoder, and the decoder with a cache merged with the one without."""
    from optimum.exporters.onnx import main_export
    from transformers import T5Config, T5ForConditionalGeneration, set_seed

    source, checkpoint = home / "source", home / "checkpoint"
    if not source.exists():
        set_seed(5)
        sizes = {"d_model": 256, "d_ff": 512, "d_kv": 64, "num_heads": 4, "num_layers": 3, "vocab_size": 4000}
        # With a head of its own, and not the table of what it read, it does not say one token for ever.
        config = T5Config(**sizes, decoder_start_token_id=0, tie_word_embeddings=False, feed_forward_proj="gated-gelu")
        T5ForConditionalGeneration(config).save_pretrained(checkpoint)
        main_export(str(checkpoint), source, task="text2text-generation-with-past", library_name="transformers")
        for each in ("decoder_model.onnx", "decoder_with_past_model.onnx"):
            (source / each).unlink(missing_ok=True)
    return source


def _make(home: Path, source: Path, presets: Sequence[str]) -> None:
    """A folder for each file and layout, and what is asked of the clients."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    layouts = ("optimum",) if config.get("is_encoder_decoder") else ("optimum", "genai")
    for name, layout in itertools.product((*presets, FP32, DYNAMIC), layouts):
        folder = home / name / layout
        if folder.exists():
            continue
        folder.parent.mkdir(parents=True, exist_ok=True)
        if name in presets:
            rewrite_folder(source, folder, functools.partial(_compressed, preset=name), layout=layout)
        else:
            _others(source, home / presets[0] / layout, folder, name)
    prompts = np.random.default_rng(7).integers(3, config["vocab_size"], (PROMPTS, PROMPT)).tolist()
    material = {"folders": [FP32, DYNAMIC, *presets], "prompts": prompts, "length": ADDED}
    (home / "material.json").write_text(json.dumps(material), encoding="utf-8")


def _compressed(file: Path, result: Path, preset: str) -> Report:
    return rewrite(file, preset, options=Options(output=result, accept=True))  # of random weights little is left


def _others(source: Path, ours: Path, folder: Path, name: str) -> None:
    """A folder like one of ours, with the models as they came or by ONNX Runtime's own quantization."""
    shutil.copytree(ours, folder)
    for model in source.glob("*.onnx"):
        if name == FP32:
            shutil.copyfile(model, folder / model.name)
        else:
            quantize_dynamic(model, folder / model.name, weight_type=QuantType.QInt8, per_channel=True)


def _asked(client: str, home: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What a client says, in a process of its own."""
    script = Path(__file__).parent / "python" / CLIENTS[client]
    command = [options.python, str(script), str(home.absolute()), str(options.rounds)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    answer: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return answer


def markdown(answers: Mapping[str, Mapping[str, Any]]) -> str:
    """The page, of what each client said of each kind of model."""
    lines = [_HEAD.format(machine=table.machine())]
    for kind, said in answers.items():
        if NATIVE not in said:
            continue
        native = said[NATIVE]["rows"]
        lines += [
            f"## {kind.capitalize()}",
            "",
            "| client | " + " | ".join(native) + " |",
            "|---" * (len(native) + 1) + "|",
        ]
        for client, answer in said.items():
            cells = [_cell(answer["rows"][name], native[name]) for name in native]
            lines.append(f"| {client} {answer['version']} | " + " | ".join(cells) + " |")
        lines.append("")
        for client, answer in said.items():
            refused = {name: row["why"] for name, row in answer["rows"].items() if not row["loads"]}
            lines += [f"- {client}, {name}: {why}" for name, why in refused.items()]
    return "\n".join(lines).rstrip() + "\n"


def _cell(row: Mapping[str, Any], native: Mapping[str, Any]) -> str:
    if not row["loads"]:
        return "no"
    if not native["loads"]:
        return "loads"
    pairs = [pair for chosen in zip(row["tokens"], native["tokens"], strict=True) for pair in zip(*chosen, strict=True)]
    same = f"{sum(ours == theirs for ours, theirs in pairs)}/{len(pairs)}"
    return same if row["ms"] is None else f"{same}; {row['ms']:.2f} ms"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models.clients.generation", description=__doc__)
    parser.add_argument("clients", nargs="*", choices=[*CLIENTS, []], metavar="CLIENT", help=", ".join(CLIENTS))
    parser.add_argument("--cache", type=Path, required=True, help="where folders and answers are kept")
    parser.add_argument("--decoder", type=Path, help="checkpoint of a decoder; makes the folders that are not there")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), metavar="PRESET")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the client")
    parser.add_argument("--rounds", type=int, default=10, help="0 asks what loads and is right")
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
