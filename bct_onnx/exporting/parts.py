"""An encoder-decoder as clients that generate load it: the encoder, and a decoder with a cache.

One file of both would run the encoder again for every token. The decoder's file has two branches over one set of
weights: the first step, and those that go on with the keys and values of the steps before.
"""

from __future__ import annotations

from pathlib import Path

from bct_onnx.errors import InputModelError
from bct_onnx.exporting import exporters
from bct_onnx.exporting.check import compared_parts
from bct_onnx.exporting.checkpoint import read
from bct_onnx.exporting.noise import captured, explained
from bct_onnx.exporting.recipe import Recipe
from bct_onnx.exporting.tidy import forget_source_lines
from bct_onnx.graph.load import load
from bct_onnx.graph.save import save

ENCODER, DECODER = "encoder_model.onnx", "decoder_model_merged.onnx"
"""Names by which optimum and transformers.js look for the parts."""


def export_parts(model: str | Path, folder: Path, recipe: Recipe, *, verbose: bool = False) -> tuple[Path, ...]:
    """Export an encoder-decoder into an existing folder, and compare both parts together with PyTorch.

    Args:
        model: Folder with config.json and weights, or an id on the Hugging Face hub.
        folder: Where the two files go, named as clients look for them.
        recipe: How; its exporter has to be optimum's.
        verbose: Let the exporter print.

    Returns:
        The encoder and the decoder.

    Raises:
        UsageError: The extra is missing, or optimum cannot export this model.
        InputModelError: The checkpoint is missing or unusable, or optimum failed.
        GateError: The parts compute something else than PyTorch.
        TargetError: ONNX Runtime cannot run them.
    """
    exporters.require("torch", "transformers")
    drafts = folder / "optimum"
    with captured(verbose) as noise:
        with explained("this checkpoint cannot be loaded", model, noise, fix="check that it is complete"):
            source = read(model, recipe.task, attention=recipe.attention, dtype=recipe.dtype)
        exporters.choose(source, recipe)
        with explained("optimum failed on this checkpoint", model, noise, fix="try another --attention"):
            exporters.with_optimum(source, recipe, drafts)
        if not (drafts / DECODER).is_file():
            raise InputModelError("optimum did not merge the two decoders", where=str(model), why=noise.text())
        # Optimum leaves the configuration of what it exported changed: T5's encoder does not run with it any more.
        source = read(model, recipe.task, attention=recipe.attention, dtype=recipe.dtype)
        compared_parts(drafts / ENCODER, drafts / DECODER, source, recipe)
    for name in (ENCODER, DECODER):
        graph = load(drafts / name)
        forget_source_lines(graph)
        save(graph, folder / name)
    return folder / ENCODER, folder / DECODER
