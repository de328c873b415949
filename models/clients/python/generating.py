"""Asks a Python client that generates: does it load each folder, which tokens does it choose, how long does one take?

Run by the interpreter that has the client, which need not have bct-onnx: nothing but numpy is used besides.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asking import told

Generate = Callable[[list[int], int], list[int]]
"""Given the tokens of a prompt and how many to add, the tokens added, each the likeliest."""


def answer(client: str, layout: str, package: str, open_folder: Callable[[Path], Generate]) -> None:
    """Ask a client about all folders and print the answer as JSON.

    Args:
        client: Its name in the table.
        layout: The folder of each model that it loads.
        package: The distribution whose version counts.
        open_folder: Given a model's folder, gives what continues a prompt.
    """
    home, rounds = Path(sys.argv[1]), int(sys.argv[2])
    material = json.loads((home / "material.json").read_text(encoding="utf-8"))
    rows, generators = dict[str, Any](), dict[str, Generate]()
    for name in material["folders"]:
        with told(rows, name), contextlib.redirect_stdout(sys.stderr):
            generate = open_folder(home / name / layout)
            tokens = [generate(prompt, material["length"]) for prompt in material["prompts"]]
            generators[name], rows[name] = generate, {"loads": True, "tokens": tokens}
    times = {name: [float("inf")] for name in generators}
    for _ in range(rounds):
        for name, generate in generators.items():
            start = time.perf_counter()
            generate(material["prompts"][0], material["length"])
            times[name].append(time.perf_counter() - start)
    for name, seconds in times.items():
        rows[name]["ms"] = 1e3 * min(seconds) / material["length"] if rounds else None
    print(json.dumps({"client": client, "version": importlib.metadata.version(package), "rows": rows}))
