"""The command: environments, files, runs, table."""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import bct_onnx
from bct_onnx import registry
from bct_onnx.errors import BctError
from bct_onnx.graph import load
from bct_onnx.quant import Error
from bct_onnx.runtime.feeds import random_feeds
from bct_onnx.runtime.vocabulary import vocabulary

HERE = Path(__file__).resolve().parent
TODAY = "1.32.0"
RELEASES = ("1.18.0", "1.20.1", "1.22.0", "1.23.1", TODAY)
OLDEST = ("usual", "1.18", "1.20", "1.22")
SHAPES = ((1, 16), (4, 24), (2, 48), (8, 128))
"""Batch and tokens of the samples; the last is timed."""


def main() -> None:
    """Make what is missing, and write the table."""
    options = _options()
    cache: Path = options.cache
    models = dict(each.split("=", 1) for each in options.model)
    python = _base(cache)
    for release in options.release:
        _install(cache, python, release)
    cells: dict[str, Any] = {}
    for (name, file), preset in itertools.product(models.items(), options.preset):
        feeds = _feeds(cache, name, Path(file))
        for oldest in options.oldest:
            key = f"{name}.{preset}.{oldest}"
            made = _rewritten(cache / f"{key}.onnx", Path(file), preset, oldest)
            for release in options.release:
                cells[f"{key}.{release}"] = _ran(cache, python, made, feeds, release)
                print(key, release, cells[f"{key}.{release}"], file=sys.stderr)
    if options.markdown is not None:
        lines = _table(cache, list(models), options)
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models.runtimes", description=__doc__)
    bundled = f"tiny-bert-sst2={HERE.parent / 'tiny-bert-sst2' / 'model.onnx'}"
    parser.add_argument("--cache", type=Path, required=True, help="folder of environments, files and results")
    parser.add_argument("--model", nargs="+", default=[bundled], metavar="NAME=FILE")
    parser.add_argument("--preset", nargs="+", default=list(registry.PRESETS))
    parser.add_argument("--oldest", nargs="+", default=list(OLDEST), help="values of --min-runtime; usual is none")
    parser.add_argument("--release", nargs="+", default=list(RELEASES), help="of ONNX Runtime")
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args()


def _base(cache: Path) -> Path:
    """The interpreter of an environment with what all releases need; 1.18 was built with numpy 1."""
    folder = cache / "environment"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        needed = ["numpy<2", "protobuf", "flatbuffers", "packaging"]
        subprocess.run([python, "-m", "pip", "install", "-qq", *needed], check=True)
    return python


def _install(cache: Path, python: Path, release: str) -> None:
    folder = cache / f"onnxruntime-{release}"
    if not folder.exists():
        command = [python, *["-m", "pip", "install", "-qq", "--no-deps", "--target"], folder, f"onnxruntime=={release}"]
        subprocess.run([str(part) for part in command], check=True)


def _feeds(cache: Path, name: str, model: Path) -> Path:
    file = cache / f"{name}.npz"
    if not file.exists():
        source = load.load(model)
        samples: dict[str, Any] = {}
        for number, (batch, tokens) in enumerate(SHAPES):
            feeds = random_feeds(
                source, batch=batch, sequence=tokens, seed=number, vocab=vocabulary(source), padding=batch > 1
            )
            samples |= {f"{number}/{key}": value for key, value in feeds.items()}
        np.savez(file, **samples)
    return file


def _rewritten(out: Path, model: Path, preset: str, oldest: str) -> Path | str:
    """The file, or why there is none."""
    refused = out.with_suffix(".refused")
    if out.exists():
        return out
    if refused.exists():
        return refused.read_text(encoding="utf-8")
    target = "ort-cpu" if oldest == "usual" else f"ort-cpu@{oldest}"
    try:
        bct_onnx.rewrite(model, preset, target=target, options=bct_onnx.Options(output=out, check=False, accept=True))
    except BctError as error:
        refused.write_text(str(error), encoding="utf-8")
        return str(error)
    return out


def _ran(cache: Path, python: Path, file: Path | str, feeds: Path, release: str) -> dict[str, Any]:
    """What came of running a file in a release, from the cache if it is there."""
    if isinstance(file, str):
        return {"refused": file}
    result = file.with_suffix(f".{release}.json")
    if not result.exists():
        outputs = file.with_suffix(f".{release}.npz")
        environment = {"PYTHONPATH": str(cache / f"onnxruntime-{release}"), "OMP_NUM_THREADS": "1"}
        command = [python, HERE / "running.py", file, feeds, outputs]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        last = (done.stdout.strip().splitlines() or [""])[-1]
        told = last if last.startswith("{") else json.dumps({"refused": f"the process ended with {done.returncode}"})
        result.write_text(told, encoding="utf-8")
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def _table(cache: Path, models: Sequence[str], options: argparse.Namespace) -> Iterator[str]:
    """The page, line by line."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    yield "# Older versions of ONNX Runtime"
    yield ""
    yield "Made by `python -m models.runtimes --cache FOLDER --markdown models/results/runtimes.md`; commit"
    yield f"{commit.strip()}, {platform.machine()}, {_processor()}, one thread of a machine that others used too."
    yield ""
    yield "A cell: SQNR in dB of all outputs against today's file (no `--min-runtime`) in ONNX Runtime"
    yield f"{TODAY} (`=` is bit for bit), answers (largest logits) that are the same, and milliseconds at 8 x 128. `-`"
    yield "does not load, as the report says. MB: of the file."
    yield ""
    yield "LayerNormalization gives other last bits since 1.28, and others again since 1.30; static 8-bit codes near an"
    yield "edge turn by them, and what follows moves."
    for name, oldest in itertools.product(models, options.oldest):
        yield ""
        title = "without --min-runtime" if oldest == "usual" else f"--min-runtime {oldest}"
        yield f"## {name}, {title}"
        yield ""
        yield f"| preset | MB | {' | '.join(options.release)} |"
        yield "|---|---|" + "---|" * len(options.release)
        for preset in options.preset:
            file = cache / f"{name}.{preset}.{oldest}.onnx"
            reference = cache / f"{name}.{preset}.usual.{TODAY}.npz"
            cells = [_cell(file.with_suffix(f".{release}.npz"), reference) for release in options.release]
            size = f"{file.stat().st_size / 1e6:.2f}" if file.exists() else "refused"
            yield f"| `{preset}` | {size} | {' | '.join(cells)} |"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def _cell(outputs: Path, reference: Path) -> str:
    if not outputs.exists():
        return "-"
    wanted, found = dict(np.load(reference)), dict(np.load(outputs))
    noise = sum(float(np.square(found[key].astype(np.float64) - value).sum()) for key, value in wanted.items())
    signal = sum(float(np.square(value.astype(np.float64)).sum()) for value in wanted.values())
    db = "=" if noise == 0 else f"{Error(noise, signal).sqnr_db:.0f} dB"
    same = [float((found[key].argmax(-1) == value.argmax(-1)).mean()) for key, value in wanted.items()]
    milliseconds = json.loads(outputs.with_suffix(".json").read_text(encoding="utf-8"))["ms"]
    return f"{db}, {100 * min(same):.0f} %, {milliseconds:.0f}"


if __name__ == "__main__":
    main()
