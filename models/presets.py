"""Measure what ``bct-onnx list presets`` says of each preset, and write it to ``passes/presets.toml``.

    python -m models.presets --model model.onnx --tokenizer FOLDER --data sts-test.csv --cache FOLDER [--write]

The model is all-MiniLM-L6-v2 as ``bct-onnx export`` gives it. Every preset is run as a user without data would run it,
with the tokenizer beside the model; all files are scored on the same texts, and timed in turn, round by round, with the
float32 file. A file that is in the cache is not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from bct_onnx.graph.load import load
from bct_onnx.presets import Measured
from bct_onnx.registry import PRESETS
from bct_onnx.runtime.latency import measure
from bct_onnx.runtime.session import session
from bct_onnx.runtime.understanding import Sampler
from bct_onnx.tasks.catalogue import load_task
from bct_onnx.tasks.evaluate import evaluate

FIGURES = Path(__file__).resolve().parents[1] / "passes" / "presets.toml"
SHAPE = (8, 128)
METRIC = "spearman"
FP32 = "fp32"


def main() -> int:
    """Make the files, score and time them, and print or write what came of it."""
    options = _options()
    files = _made(options)
    sessions = {name: session(file) for name, file in files.items()}
    task = load_task("similarity", options.data, options.tokenizer)
    scores = {name: score.metrics[METRIC] for name, score in evaluate(sessions, task).items()}
    feeds = Sampler(load(files[FP32]), sessions[FP32]).sample(*SHAPE, seed=7)
    times = measure(sessions, feeds, rounds=options.rounds)
    measured = {}
    for name in PRESETS:
        speedup = times[name].speedup_over(times[FP32]).of_medians
        megabytes = files[name].stat().st_size / 1e6
        measured[name] = Measured(round(megabytes, 1), round(scores[FP32] - scores[name], 2), round(speedup, 2))
        print(f"{name:14} {measured[name]} by minima {times[name].speedup_over(times[FP32]).of_minima:.2f}", flush=True)
    facts = {
        "model": f"all-MiniLM-L6-v2 (fp32: {files[FP32].stat().st_size / 1e6:.1f} MB)",
        "score": f"Spearman x 100 on the STS benchmark's test set (fp32: {scores[FP32]:.2f})",
        "speed": f"ONNX Runtime, 8 texts of 128 tokens (fp32: {times[FP32].median_ms:.0f} ms)",
        "machine": options.machine,
        "commit": _commit(),
    }
    text = rewritten(FIGURES.read_text(encoding="utf-8"), measured, facts)
    if options.write:
        FIGURES.write_text(text, encoding="utf-8")
    return 0


def _made(options: argparse.Namespace) -> dict[str, Path]:
    """The float32 file beside its tokenizer, and a file of each preset."""
    options.cache.mkdir(parents=True, exist_ok=True)
    source = options.cache / "model.onnx"
    shutil.copyfile(options.model, source)
    for file in options.tokenizer.glob("*.json"):
        shutil.copyfile(file, options.cache / file.name)
    files = {FP32: source}
    for preset in PRESETS:
        files[preset] = options.cache / f"{preset}.onnx"
        if not files[preset].is_file():
            command = [sys.executable, "-m", "bct_onnx", "rewrite", str(source), "-o", str(files[preset])]
            subprocess.run([*command, "--preset", preset, "--accept", "--quiet"], check=True)
            print(f"{preset:14} {files[preset].stat().st_size / 1e6:.1f} MB", flush=True)
    return files


def rewritten(text: str, measured: Mapping[str, Measured], facts: Mapping[str, str]) -> str:
    """``presets.toml`` with other figures; all else stays as it is written.

    Args:
        text: The file's text.
        measured: What to say of presets, by name.
        facts: What the section ``measurement`` says, by key.
    """
    sections = re.split(r"(?m)^(?=\[)", text)
    for number, section in enumerate(sections):
        name = section[1 : section.find("]")]
        preset = name.removeprefix("presets.")
        if name == "measurement":
            lines = [f'{key} = "{value}"\n' for key, value in facts.items()]
            sections[number] = "[measurement]\n" + "".join(lines) + "\n"
        elif name != preset and preset in measured:
            size, lost, faster = dataclasses.astuple(measured[preset])
            figures = f"megabytes = {size}, points_lost = {lost:.2f}, times_faster = {faster:.2f}"
            kept = re.sub(r"(?m)^measured = .*\n", "", section).rstrip("\n")
            sections[number] = f"{kept}\nmeasured = {{ {figures} }}\n\n"
    return "".join(sections)


def _commit() -> str:
    command = ["git", "-C", str(FIGURES.parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models.presets", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="all-MiniLM-L6-v2 in float32")
    parser.add_argument("--tokenizer", type=Path, required=True, help="its folder")
    parser.add_argument("--data", type=Path, required=True, help="the STS benchmark's test set")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the files")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--machine", default="one thread of an AMD Zen 3 CPU without VNNI")
    parser.add_argument("--write", action="store_true", help="replace the figures in passes/presets.toml")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
