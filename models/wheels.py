"""Build the wheel and the source archive, install each from its file alone, and rewrite a first model there.

    python -m models.wheels [--keep FOLDER]

makes both under a temporary folder (or FOLDER), an environment for each, and in a folder without a repository one
model by the public API and the command: what is missing in an archive is missed there. Packages come from the registry.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = ("bct_onnx", "passes")
"""What is installed: code, and the data beside it that is read when it runs."""

FIRST = """
from pathlib import Path
import numpy as np, onnx_ir as ir, onnxruntime
import bct_onnx, passes

place = Path(bct_onnx.__file__).parent
assert "site-packages" in place.parts and not Path("bct_onnx").exists(), place
weight = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
text = '''<ir_version: 10, opset_import: ["": 18]>
made (float[batch, tokens, 256] x, float[256, 256] w) => (float[batch, tokens, 256] y)
{ a = MatMul (x, w)  b = Relu (a)  y = MatMul (b, w) }'''
model = ir.from_onnx_text(text)
value = model.graph.inputs.pop()
value.const_value = ir.tensor(weight, name="w")
model.graph.initializers["w"] = value
ir.save(model, "model.onnx")
report = bct_onnx.rewrite("model.onnx", "fast", options=bct_onnx.Options(output=Path("small.onnx")))
assert report.parity is not None and report.parity.sqnr_db > 15 and report.ratio_file > 3, report.parity
onnxruntime.InferenceSession("small.onnx")
"""

COMMANDS = (
    ("--version",),
    ("rewrite", "model.onnx", "-o", "again.onnx", "--report", "page.html"),
    ("inspect", "again.onnx", "--target", "ort-cpu"),
    ("compare", "model.onnx", "again.onnx"),
    ("bench", "model.onnx", "again.onnx", "--shape", "1x16", "--rounds", "2"),
    ("rewrite", "model.onnx", "-o", "web.onnx", "--target", "web", "--quiet"),
    ("list", "presets"),
    ("list", "targets"),
    ("list", "quantize-weights"),
)
"""Each reads another kind of data that the archives have to carry."""


def build(place: Path) -> list[Path]:
    """Both archives, the wheel as it is built from the source archive: what that lacks, this lacks too."""
    builder = _environment(place / "builder", "build")
    subprocess.run([builder, "-m", "build", "--outdir", str(place), str(ROOT)], check=True, stdout=subprocess.DEVNULL)
    return [next(place.glob("*.whl")), next(place.glob("*.tar.gz"))]


def contents(archive: Path) -> set[str]:
    """Paths in an archive, those of a source archive without its first folder."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return set(wheel.namelist())
    with tarfile.open(archive) as source:
        return {name.partition("/")[2] for name in source.getnames()}


def lacking(paths: set[str]) -> list[str]:
    """Files of the packages that an archive does not have."""
    command = ["git", "ls-files", *PACKAGES]
    listed = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    return sorted(set(listed.splitlines()) - paths)


def too_many(wheel: set[str]) -> list[str]:
    """What a wheel has and should not: anything but the two packages and its own description."""
    return sorted(path for path in wheel if path.split("/")[0] not in PACKAGES and ".dist-info/" not in path)


def first_rewrite(archive: Path, place: Path) -> None:
    """Install an archive in an environment of its own and go a newcomer's way, outside of any repository."""
    python = _environment(place / "environment", str(archive))
    work = place / "work"
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run([str(python), "-c", FIRST], check=True, cwd=work, env=environment)
    for command in COMMANDS:
        program = [str(python.with_name("bct-onnx")), *command]
        done = subprocess.run(program, check=False, cwd=work, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{archive.name}: {' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}")


def _environment(folder: Path, *packages: str) -> Path:
    """The interpreter of a new environment with some packages."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    environment = os.environ | {"PYTHONPATH": ""}
    subprocess.run([str(python), "-m", "pip", "install", "-qq", *packages], check=True, env=environment)
    return python


def main() -> int:
    """Say what each archive holds and that it works."""
    parser = argparse.ArgumentParser(prog="python -m models.wheels", description=__doc__)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the archives there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        archives = build(place)
        for archive in archives:
            paths = contents(archive)
            if missed := lacking(paths):
                sys.exit(f"{archive.name} lacks {', '.join(missed)}")
            if archive.suffix == ".whl" and (extra := too_many(paths)):
                sys.exit(f"{archive.name} has {', '.join(extra)}")
            home = place / archive.suffix.strip(".")
            home.mkdir()
            first_rewrite(archive, home)
            print(
                f"{archive.name}: {len(paths)} files, {archive.stat().st_size / 1e3:.0f} kB; installed, rewrote a model"
            )
            if options.keep is not None:
                shutil.copy(archive, options.keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
