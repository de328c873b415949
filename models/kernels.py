"""Write down which operators the CPU provider of the installed ONNX Runtime has, for `bct_onnx.graph.kernels`.

    python -m venv old && old/bin/pip install onnxruntime==1.23.1 onnx && old/bin/python models/kernels.py FOLDER 1.24

writes FOLDER/ort-1.23.json: what differs from FOLDER/ort-1.24.json, or all of it where no version is named. It needs
onnxruntime and the newest onnx (numpy below 2 with ONNX Runtime 1.18), nothing else. The package has to be the one for
CPUs: asking for the kernels loads every provider that is installed, and without their libraries the process ends.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx.defs
import onnx.numpy_helper
import onnx.parser
import onnxruntime as ort
from onnx.backend.test.case.node import collect_testcases
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

CPU, MICROSOFT = "CPUExecutionProvider", "com.microsoft"
FAULTS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(ort_state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    ValueError,
)
"""What the binding raises where it cannot load or run a model: its own classes share no base but Exception."""

NEWEST = 1 << 30
"""Kernels that end with no version are those of the last version of the operator that the runtime knows."""

Types = dict[str, set[str]]
Form = tuple[int, int, Types]


def main(folder: Path, newer: str = "") -> None:
    """Write the table of the installed version, as what differs from that of a ``newer`` one."""
    if set(ort.get_available_providers()) - {CPU, "AzureExecutionProvider"}:
        sys.exit("install the package for CPUs: onnxruntime")
    version = ".".join(ort.__version__.split(".")[:2])
    schemas = {(one.domain, one.name): one for one in sorted(ort_state.get_all_operator_schema(), key=_since)}
    kernels = _kernels()
    table = {
        "version": version,
        "release": ort.__version__,
        "ir": max(ir for ir in range(8, 20) if _loads(_NOTHING, 18, ir)),
        "opset": _newest_opset(),
        "kernels": {name: [_spelled(form) for form in forms] for name, forms in sorted(kernels.items())},
        "expanded": dict(sorted(_expanded(kernels).items())),
        "inputs": {
            _name(domain, name): " ".join(one.typeStr for one in schema.inputs)
            for (domain, name), schema in sorted(schemas.items())
            if _name(domain, name) in kernels and (domain or not onnx.defs.has(name))
        },
        "attributes": {
            _name(domain, name): " ".join(sorted(schema.attributes))
            for (domain, name), schema in sorted(schemas.items())
            if _name(domain, name) in kernels and domain == MICROSOFT
        },
        "variadic": {
            _name(domain, name): True
            for (domain, name), schema in sorted(schemas.items())
            if _name(domain, name) in kernels and domain and schema.max_input > len(schema.inputs)
        },
        "values": _values(),
    }
    if newer:
        table = {"version": version, "like": newer, **_changes(table, _read(folder, newer))}
    lines = ",\n".join(f"{json.dumps(key)}: {_lines(value)}" for key, value in table.items())
    (folder / f"ort-{version}.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")


def _read(folder: Path, version: str) -> dict[str, Any]:
    """The whole table of a version."""
    table: dict[str, Any] = json.loads((folder / f"ort-{version}.json").read_text(encoding="utf-8"))
    if "like" not in table:
        return table
    whole = _read(folder, table.pop("like"))
    for key, value in table.items():
        whole[key] = {**whole[key], **value} if isinstance(value, dict) else value
        if isinstance(value, dict):
            whole[key] = {name: one for name, one in whole[key].items() if one is not None}
    return whole


def _changes(table: dict[str, Any], newer: dict[str, Any]) -> dict[str, Any]:
    """What differs from another table; None for what only that one has."""
    changes: dict[str, Any] = {}
    for key, value in table.items():
        if not isinstance(value, dict):
            changes[key] = value
            continue
        names = sorted({*value, *newer[key]})
        changes[key] = {name: value.get(name) for name in names if value.get(name) != newer[key].get(name)}
    return changes


def _since(schema: Any) -> int:
    return int(schema.since_version)


def _lines(value: Any) -> str:
    """JSON with one operator in a line, so that versions can be compared."""
    if not isinstance(value, dict):
        return json.dumps(value)
    return "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(one)}" for key, one in value.items()) + "\n}"


_NOTHING = onnx.parser.parse_graph("g (float[n] x) => (float[n] y) { y = Relu (x) }")


def _newest_opset() -> int:
    """The newest opset that the runtime loads, and was made for (it warns of those it was not)."""
    return max(opset for opset in range(20, 40) if _loads(_NOTHING, opset))


def _values() -> dict[str, dict[str, list[int]]]:
    """Values of attributes that operators compute with; none where that is all there are. Registrations do not say."""
    blocks = {
        "QuantizeLinear": """g (float[2,32] x) => (int8[2,32] y) <float[2,1] s = {1, 2}, int8[2,1] z = {0, 0}>
            { y = QuantizeLinear <axis = -1, block_size = 32> (x, s, z) }""",
        "DequantizeLinear": """g (int8[2,32] x) => (float[2,32] y) <float[2,1] s = {1, 2}>
            { y = DequantizeLinear <axis = -1, block_size = 32> (x, s) }""",
    }
    found = {name: {"block_size": [0]} for name, text in blocks.items() if not _runs(onnx.parser.parse_graph(text))}
    bits = [bits for bits in (2, 4, 8) if _runs(_few_bits(bits))]
    return {**found, f"{MICROSOFT}::MatMulNBits": {"bits": bits}}


def _few_bits(bits: int) -> onnx.GraphProto:
    """A product with weights [32, 16] of so many bits, which rounds activations to 8 bits."""
    text = f"""g (float[2,32] x) => (float[2,16] y) {{ y = com.microsoft.MatMulNBits
        <K = 32, N = 16, bits = {bits}, block_size = 32, accuracy_level = 4> (x, codes, scales) }}"""
    graph = onnx.parser.parse_graph(text)
    codes, scales = np.zeros((16, 1, 4 * bits), np.uint8), np.ones((16, 1), np.float32)
    graph.initializer.extend(
        [onnx.numpy_helper.from_array(codes, "codes"), onnx.numpy_helper.from_array(scales, "scales")]
    )
    return graph


def _kernels() -> dict[str, list[Form]]:
    """The kernels of each operator by range of versions, those together that differ in one type."""
    found: dict[str, list[Form]] = {}
    for kernel in ort_state.get_all_opkernel_def():
        if kernel.provider != CPU:
            continue
        since, end = kernel.version_range
        name = _name(kernel.domain, kernel.op_name)
        types = {variable: set(allowed) for variable, allowed in kernel.type_constraints.items()}
        if kernel.domain or _fits(kernel.op_name, since, types):
            _add(found.setdefault(name, []), (since, min(end, NEWEST), types))
    return {name: sorted(forms, key=lambda form: json.dumps(_spelled(form))) for name, forms in found.items()}


def _fits(operator: str, since: int, types: Types) -> bool:
    """Whether a kernel's types are among those of its operator. Those of QuantizeLinear 23 in 1.23 are not.

    They are registered as if its second type were that of the codes, as it was before, so that no node finds them.
    """
    if not onnx.defs.has(operator, since, ""):
        return True  # an operator of ONNX Runtime in the default domain
    schema = onnx.defs.get_schema(operator, since, "")
    known = {one.type_param_str: set(one.allowed_type_strs) for one in schema.type_constraints}
    return all(not known.get(variable) or known[variable] & allowed for variable, allowed in types.items())


def _add(forms: list[Form], new: Form) -> None:
    """Add a kernel, to one that differs in the types of one variable where there is such."""
    since, end, types = new
    for form in forms:
        if form[:2] == (since, end) and form[2].keys() == types.keys():
            differing = [variable for variable, allowed in types.items() if form[2][variable] != allowed]
            if len(differing) <= 1:
                form[2].update({variable: form[2][variable] | types[variable] for variable in differing})
                return
    forms.append(new)


def _spelled(form: Form) -> list[Any]:
    since, end, types = form
    open_ended = end == NEWEST
    return [since, 0 if open_ended else end, {name: " ".join(sorted(map(_short, one))) for name, one in types.items()}]


def _short(kind: str) -> str:
    """A type without the word that all tensors have; sequences and the like keep it."""
    return kind.removeprefix("tensor(").removesuffix(")") if kind.startswith("tensor(") else kind


def _name(domain: str, operator: str) -> str:
    return f"{domain}::{operator}" if domain else operator


def _expanded(kernels: dict[str, list[Form]]) -> dict[str, list[int]]:
    """Operators that it expands instead: the opsets, from 13 on, in which it loads one of ONNX's examples."""
    found: dict[str, list[int]] = {}
    for operator, graphs in _examples().items():
        forms = kernels.get(operator, [])
        without = [opset for opset in range(13, _newest_opset() + 1) if not _covered(operator, opset, forms)]
        if opsets := [opset for opset in without if any(_loads(one, opset) for one in graphs)]:
            found[operator] = opsets
    return found


def _covered(operator: str, opset: int, forms: list[Form]) -> bool:
    """Whether a kernel is for the version of the operator that an opset has."""
    version = onnx.defs.get_schema(operator, opset).since_version if onnx.defs.has(operator, opset, "") else 0
    return any(since == version or (since < version <= end and end != NEWEST) for since, end, _ in forms)


def _examples() -> dict[str, list[onnx.GraphProto]]:
    """The graphs of one node that ONNX tests the operators with that it defines by others."""
    found: dict[str, list[onnx.GraphProto]] = {}
    for case in collect_testcases():
        graph = case.model.graph if case.model is not None else onnx.GraphProto()
        if len(graph.node) == 1 and not graph.node[0].domain and _is_function(graph.node[0].op_type):
            found.setdefault(graph.node[0].op_type, []).append(graph)
    return found


def _is_function(operator: str) -> bool:
    schema: Any = onnx.defs.get_schema(operator)
    return bool(schema.has_function or schema.has_context_dependent_function)


def _loads(graph: onnx.GraphProto, opset: int, ir_version: int = 10) -> bool:
    return _session(graph, opset, ir_version) is not None


def _runs(graph: onnx.GraphProto) -> bool:
    session = _session(graph, 21, 10)
    if session is None:
        return False
    feeds = {
        one.name: np.ones(one.shape, np.int8 if "int8" in one.type else np.float32) for one in session.get_inputs()
    }
    try:
        session.run(None, feeds)
    except FAULTS:
        return False
    return True


def _session(graph: onnx.GraphProto, opset: int, ir_version: int) -> ort.InferenceSession | None:
    opsets = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid(MICROSOFT, 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=[CPU])
    except FAULTS:
        return None


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
