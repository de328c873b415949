"""Whether two builds make the same models: a hash of graph and outputs for every preset and target.

    python -m models.fingerprints [MODEL.onnx ...] --save before.json [--build CHECKOUT]
    python -m models.fingerprints [MODEL.onnx ...] --against before.json

Each cell is rewritten by the command ``bct-onnx rewrite`` of the build (``--build``: another checkout; else this one).
The hash of the graph covers operators, attributes, constants and how they hang together, and nothing that is only
called by a name: values, nodes, stamps and value_info are apart. The hash of the outputs covers every byte that ONNX
Runtime computes from seeded inputs, one thread. Both say nothing across machines. Exits with 1 where a cell differs.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from bct_onnx.runtime.session import ORT_ERRORS

HERE = Path(__file__).resolve().parent
ROWS, TOKENS, PAST, SEED = 2, 13, 5, 7
FAILED = {1: "a gate failed", 2: "usage", 3: "input unusable", 4: "the target cannot run it"}

_LIST = "import json; from bct_onnx import registry as r; print(json.dumps([list(r.PRESETS), list(r.TARGETS)]))"


def digest(*parts: object) -> str:
    """A short hash of texts and bytes, in order."""
    total = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode()
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:16]


class Fingerprint:
    """Hash of a model whose values are known by what computes them, not by their names."""

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self._folder = folder
        self._functions: dict[tuple[str, str], str] = {}
        for function in model.functions:  # a function is defined after those that it calls
            hashes = {name: digest("parameter", at) for at, name in enumerate(function.input)}
            nodes = self._nodes(function.node, hashes)
            results = [hashes[name] for name in function.output]
            self._functions[function.domain, function.name] = digest("function", nodes, results)
        opsets = sorted((opset.domain, opset.version) for opset in model.opset_import)
        self.text = digest(opsets, self._graph(model.graph, {}, named=True))

    def _graph(self, graph: onnx.GraphProto, outer: Mapping[str, str], *, named: bool) -> str:
        hashes = dict(outer)
        for at, value in enumerate(graph.input):
            key = value.name if named else at
            hashes[value.name] = digest("input", key, value.type.SerializeToString(deterministic=True))
        for tensor in graph.initializer:
            hashes[tensor.name] = self._tensor(tensor)
        nodes = self._nodes(graph.node, hashes)
        results = [(value.name if named else at, hashes[value.name]) for at, value in enumerate(graph.output)]
        return digest(nodes, results)

    def _nodes(self, nodes: Iterable[onnx.NodeProto], hashes: dict[str, str]) -> list[str]:
        """Hash every node, add its results to ``hashes``, and return all hashes sorted: order is no matter."""
        every = []
        for node in nodes:
            attributes = sorted(self._attribute(attribute, hashes) for attribute in node.attribute)
            inputs = [hashes[name] if name else "" for name in node.input]
            called = self._functions.get((node.domain, node.op_type), "")
            own = digest(node.domain, node.op_type, called, attributes, inputs, [bool(name) for name in node.output])
            every.append(own)
            for at, name in enumerate(node.output):
                hashes[name] = digest(own, at)
        return sorted(every)

    def _attribute(self, attribute: onnx.AttributeProto, hashes: Mapping[str, str]) -> str:
        if attribute.type == onnx.AttributeProto.GRAPH:
            return digest(attribute.name, self._graph(attribute.g, hashes, named=False))
        if attribute.type == onnx.AttributeProto.TENSOR:
            return digest(attribute.name, self._tensor(attribute.t))
        plain = onnx.AttributeProto()
        plain.CopyFrom(attribute)
        plain.ClearField("doc_string")
        return digest(plain.SerializeToString(deterministic=True))

    def _tensor(self, tensor: onnx.TensorProto) -> str:
        values = onnx.numpy_helper.to_array(tensor, base_dir=str(self._folder))
        return digest("constant", tensor.data_type, tuple(tensor.dims), np.ascontiguousarray(values).tobytes())


def feeds(session: ort.InferenceSession) -> dict[str, np.ndarray]:
    """Seeded inputs of a model that reads tokens: a mask with a padded row, positions, and a cache if it has one."""
    random = np.random.default_rng(SEED)
    cached = any(value.name.startswith("past_key_values") for value in session.get_inputs())
    past = PAST if cached else 0
    values: dict[str, np.ndarray] = {}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values"):
            heads, width = value.shape[1], value.shape[3]
            values[value.name] = random.standard_normal((ROWS, heads, past, width)).astype(np.float32)
        elif "mask" in value.name:
            mask = np.ones((ROWS, past + TOKENS), np.int64)
            mask[1, -4:] = 0
            values[value.name] = mask
        elif "type" in value.name:
            values[value.name] = np.zeros((ROWS, TOKENS), np.int64)
        elif "position" in value.name:
            values[value.name] = np.tile(np.arange(past, past + TOKENS), (ROWS, 1))
        else:
            values[value.name] = random.integers(5, 900, (ROWS, TOKENS))
    return values


def outputs(path: Path) -> str:
    """Hash of what ONNX Runtime computes, or its word where it loads no such model."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        results = session.run(None, feeds(session))
    except ORT_ERRORS as error:
        return f"does not run: {type(error).__name__}"
    return digest(*[(value.dtype.str, value.shape, value.tobytes()) for value in results])


def python(build: Path, *arguments: str, check: bool) -> subprocess.CompletedProcess[bytes]:
    """Run Python so that it imports the packages of ``build``, from a folder that has none."""
    command = [sys.executable, *arguments]
    environment = os.environ | {"PYTHONPATH": str(build)}
    return subprocess.run(command, env=environment, cwd=tempfile.gettempdir(), capture_output=True, check=check)


def cell(build: Path, model: Path, preset: str, target: str) -> dict[str, str]:
    """Rewrite, load, hash."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.onnx"
        command = ["-m", "bct_onnx", "rewrite", str(model), "-o", str(out), "--no-check", "--quiet"]
        done = python(build, *command, "--preset", preset, "--target", target, check=False)
        if done.returncode:
            return {"graph": FAILED.get(done.returncode, f"exit {done.returncode}"), "outputs": ""}
        graph = Fingerprint(onnx.load(out, load_external_data=False), out.parent).text
        return {"graph": graph, "outputs": outputs(out)}


def main() -> int:
    """Hash all cells; save or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, default=[HERE / "tiny-bert-sst2" / "model.onnx"])
    parser.add_argument("--build", type=Path, default=HERE.parent, help="the checkout whose command rewrites")
    parser.add_argument("--preset", action="append", help="only these presets")
    parser.add_argument("--target", action="append", help="only these targets")
    parser.add_argument("--save", type=Path, help="write the hashes here; those of other cells stay")
    parser.add_argument("--against", type=Path, help="compare with hashes saved before")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    options = parser.parse_args()
    build = options.build.resolve()
    presets, targets = json.loads(python(build, "-c", _LIST, check=True).stdout)
    before = json.loads(options.against.read_text()) if options.against else {}
    kept = json.loads(options.save.read_text()) if options.save and options.save.exists() else {}
    differing = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        running = {}
        for model, preset, target in itertools.product(
            options.models, options.preset or presets, options.target or targets
        ):
            key = f"{model.parent.name}/{model.name} {preset} {target}"
            running[key] = pool.submit(cell, build, model.resolve(), preset, target)
        for key, future in running.items():
            now = future.result()
            kept[key] = now
            verdict = ""
            if options.against:
                verdict = "same" if before.get(key) == now else f"DIFFERS from {before.get(key)}"
                differing += verdict != "same"
            print(f"{key:60} {now['graph']:18} {now['outputs']:18} {verdict}", flush=True)
            if options.save:
                options.save.write_text(json.dumps(kept, indent=1))
    if options.against:
        print(f"{len(running) - differing} of {len(running)} cells are the same")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
