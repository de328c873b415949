"""What a CPU changes: each preset's result on emulated Arm, on x86 without AVX2, and in other batches.

    python -m models.arm --cache FOLDER --markdown models/results/cpus.md

It needs Debian's ``debootstrap`` and ``qemu-user`` from version 8 on (7.2 ends in a segmentation fault when ONNX
Runtime is imported); ``--qemu`` names a folder of its programs. A Debian root for arm64 and the aarch64 wheels are
laid in FOLDER, where results stay too. Nothing needs root's rights but debootstrap.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import bct_onnx
from bct_onnx import registry
from bct_onnx.errors import BctError
from bct_onnx.quant import Error
from bct_onnx.runtime.latency import cpu_features

HERE = Path(__file__).resolve().parent
BUNDLED = HERE / "tiny-bert-sst2" / "model.onnx"
RUNNING = HERE / "runtimes" / "running.py"
NATIVE, SOURCE = "native", "fp32"
CPUS = ("cortex-a72", "neoverse-n1", "max", "Nehalem")
"""Emulated: two Arm CPUs without and one with int8 products of matrices, and an x86 without AVX2."""

WHEELS = ("numpy", "flatbuffers", "packaging")
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_27_aarch64", "manylinux_2_28_aarch64")
PACKAGES = "python3.11-minimal,libpython3.11-stdlib,libstdc++6"
TEXTS, LONGEST, PADDED = 12, 32, 40
"""Texts of 5 to 32 tokens; the longest batch is padded to 40."""

Outputs = dict[str, np.ndarray[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Machine:
    """How Python is started: here, or on an emulated CPU."""

    name: str
    command: tuple[str, ...]
    site: str = ""


def main() -> None:
    """Make what is missing, run all, and write the table."""
    options = _options()
    cache: Path = options.cache.absolute()
    cache.mkdir(parents=True, exist_ok=True)
    machines = [Machine(NATIVE, (sys.executable,)), *_emulated(cache, options)]
    feeds = _feeds(cache / "feeds.npz")
    files = {SOURCE: BUNDLED} | {name: _rewritten(cache, name) for name in options.rows}
    results: dict[tuple[str, str], Outputs] = {}
    for name, file in files.items():
        for machine in machines:
            if options.table and not _outputs(cache, name, machine).exists():
                continue
            results[name, machine.name] = _ran(cache, file, feeds, machine, name)
            print(name, machine.name, file=sys.stderr, flush=True)
    if options.markdown is not None:
        lines = _page(results, list(files), [machine.name for machine in machines])
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models.arm", description=__doc__)
    rows = [*registry.PRESETS, "bct-plus@ort-cpu-integer", "w4-refined@portable", "bct-plus@web"]
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--qemu", type=Path, default=Path("/usr/bin"), help="folder of qemu-aarch64 and qemu-x86_64")
    parser.add_argument("--cpus", nargs="+", default=list(CPUS))
    parser.add_argument("--rows", nargs="+", default=rows, help="PRESET, or PRESET@TARGET")
    parser.add_argument("--table", action="store_true", help="run nothing: cells that are not in the cache stay empty")
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args()


def _emulated(cache: Path, options: argparse.Namespace) -> Iterator[Machine]:
    """The machines of the CPUs that were asked for."""
    for cpu in options.cpus:
        if cpu[0].isupper():  # x86's are named after their makers' code names
            yield Machine(cpu, (str(options.qemu / "qemu-x86_64"), "-cpu", cpu, sys.executable))
            continue
        root = _arm_root(cache / "arm64")
        command = (str(options.qemu / "qemu-aarch64"), "-cpu", cpu, "-L", str(root), str(root / "usr/bin/python3.11"))
        yield Machine(cpu, command, str(_arm_site(cache / "arm64-site")))


def _arm_root(folder: Path) -> Path:
    """Debian for arm64, unpacked and not configured: enough for an interpreter."""
    if (folder / "usr/bin/python3.11").exists():
        return folder
    command = ["debootstrap", "--foreign", "--arch=arm64", "--variant=minbase", f"--include={PACKAGES}", "bookworm"]
    subprocess.run([*command, str(folder)], check=True)
    for package in sorted((folder / "var/cache/apt/archives").glob("*.deb")):
        archive = subprocess.run(["dpkg", "--fsys-tarfile", package], check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "--keep-directory-symlink", "-C", folder], input=archive, check=True)
    return folder


def _arm_site(folder: Path) -> Path:
    """The aarch64 wheels of this ONNX Runtime and of what it imports, unpacked."""
    if folder.exists():
        return folder
    wheels = folder.with_suffix(".wheels")
    flags = [f"--platform={each}" for each in PLATFORMS]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(wheels)]
    names = [*WHEELS, f"onnxruntime=={onnxruntime.__version__}"]
    subprocess.run([*command, "--python-version=3.11", *flags, *names], check=True)
    draft = folder.with_suffix(".draft")
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(draft)
    shutil.move(draft, folder)
    return folder


def _feeds(file: Path) -> Path:
    """Each text alone, all in one batch, and all in one batch that is padded further."""
    random = np.random.default_rng(0)
    lengths = np.linspace(5, LONGEST, TEXTS).astype(int)
    samples = {f"{at:02}": _batch(random, [length], length) for at, length in enumerate(lengths)}
    texts = [sample["input_ids"][0] for sample in samples.values()]
    for name, width in (("batch", LONGEST), ("padded", PADDED)):
        samples[name] = _padded(texts, width)
    feeds: dict[str, Any] = {}
    for number, sample in samples.items():
        feeds |= {f"{number}/{key}": value for key, value in sample.items()}
    np.savez(file, **feeds)
    return file


def _batch(random: np.random.Generator, lengths: list[int], width: int) -> Outputs:
    return _padded([random.integers(5, 6000, length) for length in lengths], width)


def _padded(texts: list[Any], width: int) -> Outputs:
    ids = np.zeros((len(texts), width), np.int64)
    mask = np.zeros_like(ids)
    for at, text in enumerate(texts):
        ids[at, : len(text)], mask[at, : len(text)] = text, 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def _rewritten(cache: Path, row: str) -> Path:
    """The bundled model by a preset for a target, made here."""
    preset, _, target = row.partition("@")
    file = cache / f"{row}.onnx"
    if not file.exists():
        try:
            options = bct_onnx.Options(file, check=False, accept=True)
            bct_onnx.rewrite(BUNDLED, preset, target=target or "ort-cpu", options=options)
        except BctError as error:
            sys.exit(f"{row}: {error}")
    return file


def _outputs(cache: Path, name: str, machine: Machine) -> Path:
    return cache / f"{name}.{machine.name}.npz"


def _ran(cache: Path, file: Path, feeds: Path, machine: Machine, name: str) -> Outputs:
    """Outputs by sample on a machine, from the cache where they are there."""
    outputs = _outputs(cache, name, machine)
    if not outputs.exists():
        environment = dict(os.environ, OMP_NUM_THREADS="1")
        if machine.site:
            environment["PYTHONPATH"] = machine.site
        command = [*machine.command, str(RUNNING), str(file), str(feeds), str(outputs), "0"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        if not outputs.exists():
            sys.exit(f"{name} on {machine.name}: {done.stdout}{done.stderr}")
    return dict(np.load(outputs))


def _page(results: Mapping[tuple[str, str], Outputs], rows: list[str], machines: list[str]) -> Iterator[str]:
    cpu = cpu_features()
    here = f"{cpu.model}, {', '.join(cpu.flags or ()) or 'flags unknown'}"
    yield "# Results by CPU"
    yield ""
    yield "Made by `python -m models.arm --cache FOLDER --markdown models/results/cpus.md`: the bundled model rewritten"
    yield f"here (`{NATIVE}`: {platform.machine()}, {here}), run by ONNX Runtime {onnxruntime.__version__} here and on"
    yield "CPUs that QEMU emulates: Cortex-A72 (ARMv8.0), Neoverse N1 (dot products), `max` (i8mm, SVE: all that"
    yield f"QEMU knows), and Nehalem, an x86 without AVX. {TEXTS} texts of random tokens; no time is meant."
    yield ""
    yield "A cell: SQNR in dB of the logits from those of the same file on this machine (`=` is bit for bit); SQNR from"
    yield f"fp32 on the same CPU; of {TEXTS} texts, how many give the same bits alone, in a batch, and in a wider one."
    yield "An empty cell was not run."
    yield ""
    yield f"| preset, or preset@target | {' | '.join(machines)} |"
    yield "|---" * (len(machines) + 1) + "|"
    for row in rows:
        cells = [_cell(results, row, machine) for machine in machines]
        yield f"| `{row}` | {' | '.join(cells)} |"


def _cell(results: Mapping[tuple[str, str], Outputs], row: str, machine: str) -> str:
    found = results.get((row, machine))
    if found is None:
        return ""
    apart = _decibels(results[row, NATIVE], found)
    lost = "" if row == SOURCE else f", {_decibels(results[SOURCE, machine], found)} from fp32"
    return f"{apart}{lost}, {_same(found)} of {TEXTS}"


def _decibels(wanted: Outputs, found: Outputs) -> str:
    total = Error()
    for key, value in wanted.items():
        reference = value.astype(np.float64)
        total += Error(float(np.square(found[key] - reference).sum()), float(np.square(reference).sum()))
    return "=" if total.noise == 0 else f"{total.sqnr_db:.0f} dB"


def _same(found: Outputs) -> int:
    """Texts whose first output does not depend on what lies beside them."""
    rows = zip(*(found[f"{name}/0"] for name in ("batch", "padded")), strict=True)
    alone = [found[f"{at:02}/0"][0] for at in range(TEXTS)]
    return sum(all(np.array_equal(one, each) for each in others) for one, others in zip(alone, rows, strict=True))


if __name__ == "__main__":
    main()
