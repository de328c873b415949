"""sentence-transformers as a folder's card says: ``SentenceTransformer(FOLDER, backend="onnx").encode(texts)``.

Run by the interpreter that has it, which need not have bct-onnx.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from asking import told
from sentence_transformers import SentenceTransformer

home, rounds = Path(sys.argv[1]), int(sys.argv[2])
material = json.loads((home / "material.json").read_text(encoding="utf-8"))
rows, models, reference = dict[str, Any](), dict[str, SentenceTransformer](), None
with contextlib.redirect_stdout(sys.stderr):
    for file in material["files"]:
        with told(rows, file):
            start = time.perf_counter()
            models[file] = SentenceTransformer(str(home / file), backend="onnx")
            load = time.perf_counter() - start
            vectors = models[file].encode(material["texts"], normalize_embeddings=True)
            if reference is None:
                reference = vectors
            cosine = float(np.mean(np.sum(reference * vectors, axis=1)))
            rows[file] = {"loads": True, "load": load, "cosine": cosine, "seconds": float("inf")}
    for _ in range(rounds):
        for file, model in models.items():
            start = time.perf_counter()
            model.encode(material["texts"], normalize_embeddings=True)
            rows[file]["seconds"] = min(rows[file]["seconds"], time.perf_counter() - start)
version = importlib.metadata.version("sentence-transformers")
print(json.dumps({"client": "sentence-transformers", "version": version, "rows": rows}))
