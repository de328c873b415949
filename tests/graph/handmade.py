"""Small models built by hand, for what exporters do not produce on purpose."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

MATMUL = """<ir_version: 10, opset_import: ["" : 21]>
    matmul (float[batch, 4] x) => (float[batch, 2] y) { y = MatMul (x, w) }"""

BRANCHES = """<ir_version: 10, opset_import: ["" : 21]>
    branches (float[4] x, bool c) => (float[4] y) {
        y = If (c) <then_branch = one () => (float[4] a) { a = Add (x, late) },
                    else_branch = two () => (float[4] a) { a = Mul (x, late) }>
        late = Relu (x)
    }"""

FUNCTION = """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
    g (float[2] x) => (float[2] y) { y = local.f (x) }
    <domain: "local", opset_import: ["" : 21]> f (a) => (b) { c = Relu (a) b = Neg (c) }"""


def parse(text: str) -> onnx.ModelProto:
    """Parse ONNX text, with dimensions in quotes too (``[batch, "past + new"]``), which ONNX 1.20 does not read."""
    names: dict[str, str] = {}

    def plain(dimension: re.Match[str]) -> str:
        names[f"quoted_{len(names)}"] = dimension[2]
        return f"{dimension[1]}quoted_{len(names) - 1}"

    proto = onnx.parser.parse_model(re.sub(r'(\b(?:float|int64)\[[^]"]*)"([^"]+)"', plain, text))
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]
    return proto


def model(text: str = MATMUL, **initializers: np.ndarray[Any, Any]) -> onnx.ModelProto:
    """Parse ONNX text and add initializers; the default is one MatMul by a weight w [4, 2]."""
    if text is MATMUL:
        initializers.setdefault("w", np.arange(8, dtype=np.float32).reshape(4, 2))
    proto = parse(text)
    proto.graph.initializer.extend(numpy_helper.from_array(data, name) for name, data in initializers.items())
    return proto


def weights(seed: int = 0, rows: int = 1000) -> onnx.ModelProto:
    """The MatMul model with a random weight of 8 * rows bytes."""
    data = np.random.default_rng(seed).standard_normal((rows, 2), dtype=np.float32)
    return model(MATMUL.replace("batch, 4", f"batch, {rows}"), w=data)


def write(proto: onnx.ModelProto, path: Path) -> Path:
    """Write `proto` as it is, checked by nobody."""
    path.write_bytes(proto.SerializeToString())
    return path


def refer(tensor: onnx.TensorProto, **entries: str | int) -> None:
    """Drop the data of `tensor` and make it refer to external data."""
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def external(path: Path, data: str = "w.bin", /, **entries: str | int) -> Path:
    """Write the MatMul model to `path` and its weight, after 64 other bytes, to the file `data` beside it."""
    proto = model()
    weight = proto.graph.initializer[0]
    (path.parent / data).parent.mkdir(exist_ok=True)
    (path.parent / data).write_bytes(bytes(64) + weight.raw_data)
    refer(weight, **{"location": data, "offset": 64, "length": 32, **entries})
    return write(proto, path)


def peak_memory(code: str, *arguments: object) -> tuple[int, int]:
    """Run `code` in a fresh interpreter; returns (peak before it, peak after it) in MiB.

    The first figure is taken at the line `# measured` of `code`, which finds `arguments` in `sys.argv[1:]`.
    """
    before, after = code.split("# measured\n")
    script = f"{_PEAK}\n{before}\nfirst = peak()\n{after}\nprint('peaks', first, peak())"
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    found = re.search(r"peaks (\d+) (\d+)", done.stdout)
    assert found is not None
    return int(found[1]) >> 10, int(found[2]) >> 10


_PEAK = r"""
import re, resource, sys
from pathlib import Path
def peak():
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would start from the parent's peak
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
"""
