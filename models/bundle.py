"""Make ``models/tiny-bert-sst2`` from its checkpoint: ``python models/bundle.py CHECKPOINT_DIR``.

Needs the extra ``bct-onnx[export]``. The same checkpoint and the same versions of torch and optimum-onnx give the same
bytes.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from bct_onnx.errors import BctError, InputModelError
from bct_onnx.exporting import Exported, Recipe, export

FOLDER = Path(__file__).parent / "tiny-bert-sst2"
SIDE_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
LARGEST = 10_000_000
"""Bytes of a model that still belongs into a repository."""


def bundle(checkpoint: Path, folder: Path = FOLDER) -> Exported:
    """Export ``checkpoint`` to ``folder/model.onnx`` in float32 and copy its tokenizer and configuration there.

    Raises:
        BctError: The checkpoint is incomplete, too large to bundle, or its export failed (see `export`).
    """
    for name in (*SIDE_FILES, "model.safetensors"):
        if not (checkpoint / name).is_file():
            raise InputModelError(f"the checkpoint has no {name}", where=str(checkpoint))
    if (checkpoint / "model.safetensors").stat().st_size > LARGEST:
        raise InputModelError("this checkpoint is too large to bundle", where=str(checkpoint))
    folder.mkdir(parents=True, exist_ok=True)
    done = export(checkpoint, folder / "model.onnx", Recipe(exporter="optimum"), force=True)
    for name in SIDE_FILES:
        shutil.copyfile(checkpoint / name, folder / name)
    return done


def main() -> int:
    """Bundle the checkpoint that the command line names."""
    if len(sys.argv) != 2:
        print("usage: python models/bundle.py CHECKPOINT_DIR", file=sys.stderr)
        return 2
    try:
        done = bundle(Path(sys.argv[1]))
    except BctError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"wrote {FOLDER}: {done.nbytes / 1e6:.1f} MB, opset {done.opset}, {done.difference:.1g} away from PyTorch")
    return 0


if __name__ == "__main__":
    sys.exit(main())
