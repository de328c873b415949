"""Golden cases: the reader and writer of `tests/golden/*.onnxtxt`; `README.md` there describes the format."""

from __future__ import annotations

import collections
import dataclasses
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_origin

import ml_dtypes  # noqa: F401  # registers int4 and the like with numpy
import numpy as np
import onnx
import onnx.parser
import onnx.printer
import onnx_ir as ir
import onnxruntime as ort

from bct_onnx.base import Applied, Pass
from bct_onnx.graph import kernels, shapes
from bct_onnx.graph.canonical import canonical_text
from bct_onnx.pipeline import Pipeline

FOLDER = Path(__file__).resolve().parents[1] / "golden"
SEPARATOR = "-----"
SAME = "same"


@dataclasses.dataclass(frozen=True)
class Case:
    """One case of a golden file; ``after`` is a model text, ``same`` or ``ops: ...``."""

    file: Path
    title: str
    directives: tuple[tuple[str, str], ...]
    before: str
    after: str
    declined: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file.stem}: {self.title}"

    def directive(self, name: str, default: str) -> str:
        return next((text for key, text in self.directives if key == name), default)

    def rewrite(self) -> Pass:
        """The pass with its options."""
        name = self.file.stem
        known = {name: pass_class(name)}
        (one,) = Pipeline.parse(self.directive("pass", name), known)
        return one

    def given(self) -> Pipeline:
        """The passes that run before it, for example those that leave statistics."""
        text = self.directive("given", "")
        names = re.findall(r"(?:^|,) *([a-z0-9-]+)", re.sub(r"{.*?}", "", text))
        return Pipeline.parse(text, {name: pass_class(name) for name in names})

    def model(self, text: str) -> ir.Model:
        """Parse ``text``, attach those random initializers that it uses, and infer shapes as `normalize` does."""
        proto = onnx.parser.parse_model(text)
        used = set(_used(proto.graph))
        lines = [line for key, line in self.directives if key == "random" and line.split()[0] in used]
        proto.graph.initializer.extend(ir.to_proto(random_tensor(line)) for line in lines)
        model = ir.from_proto(proto)
        shapes.infer(model)
        return model

    def feed(self, option: str, default: int) -> int:
        """An option of the inputs to make."""
        return int(dict(_pairs(self.directive("feed", ""))).get(option, default))


def _used(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that nodes read, those in branches and loops too."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            yield from _used(attribute.g)


def cases() -> list[Case]:
    """Every case of every golden file."""
    return [case for file in sorted(FOLDER.glob("*.onnxtxt")) for case in read(file)]


def updated_cases(name: str) -> list[Case]:
    """As `cases`, after each ``after`` of the pass ``name`` (``1``: of all) was written anew from what it does."""
    for file in sorted(FOLDER.glob("*.onnxtxt")):
        if name in (file.stem, "1"):
            write(file, [_updated(case) for case in read(file)])
    return cases()


def prepared(case: Case) -> ir.Model:
    """The model that the pass of ``case`` gets."""
    model = case.model(case.before)
    for one in case.given():
        one(model)
    return model


def apply(case: Case, model: ir.Model) -> Applied:
    """Run the pass of ``case`` on ``model``."""
    applied = case.rewrite()(model)
    assert isinstance(applied, Applied)
    return applied


def histogram(model: ir.Model) -> dict[str, int]:
    """How often each operator stands in the graph and its subgraphs."""
    names = (f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in model.graph.all_nodes())
    return dict(collections.Counter(names))


def read(file: Path) -> list[Case]:
    """The cases of one file.

    Raises:
        ValueError: The file is not as its README says.
    """
    chunks = re.split(r"^# case: *", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if chunks[0].strip():
        raise ValueError(f"{file} does not begin with '# case:'")
    return [_case(file, chunk) for chunk in chunks[1:]]


def write(file: Path, changed: list[Case]) -> None:
    """Write the cases back, each with its ``after``."""
    parts = []
    for case in changed:
        lines = [
            f"# case: {case.title}",
            *(f"# {key}: {text}" for key, text in case.directives),
            case.before,
            SEPARATOR,
        ]
        parts.append("\n".join([*lines, case.after, *(f"# declined: {reason}" for reason in case.declined)]))
    file.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def runnable(proto: onnx.ModelProto) -> bytes | ir.Model:
    """A model for `session`: as it is written; for the oldest runtime one in memory, which `session` gives operators
    that have kernels there."""
    return ir.from_proto(proto) if is_oldest_runtime() else proto.SerializeToString()


def is_oldest_runtime() -> bool:
    """Whether the installed ONNX Runtime is of the oldest version that results are made for."""
    version: str = ort.__version__
    return version.startswith(f"{kernels.LOWEST}.")


def pass_class(name: str) -> type[Pass]:
    """The pass called ``name``, from the module that must be called like it."""
    module = importlib.import_module("passes." + name.replace("-", "_"))
    return next(
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, Pass) and _name(kind) == name
    )


def random_tensor(line: str) -> ir.TensorProtocol:
    """A constant from a line like ``w float[64,32] seed=1``: normal floats, or integers over the whole type."""
    match = re.fullmatch(r"(\S+) +(\w+)\[([\d, ]*)\](.*)", line)
    if match is None:
        raise ValueError(f"not 'NAME TYPE[SHAPE] seed=N': {line!r}")
    name, dtype = match[1], ir.DataType[match[2].upper()]
    shape = [int(size) for size in match[3].split(",") if size.strip()]
    options = {key: float(value) for key, value in _pairs(match[4])}
    rng = np.random.default_rng(int(options.get("seed", 0)))
    if dtype.is_integer():
        low, high = (int(options.get(key, bound)) for key, bound in (("low", dtype.min), ("high", dtype.max)))
        data = rng.integers(low, high, size=shape, endpoint=True).astype(dtype.numpy())
    else:
        data = (rng.standard_normal(shape) * options.get("scale", 1.0)).astype(dtype.numpy())
    return ir.Tensor(data, dtype, name=name)


def _updated(case: Case) -> Case:
    model = prepared(case)
    before = canonical_text(model)
    applied = apply(case, model)
    if canonical_text(model) == before:
        reasons = case.declined or tuple(dict.fromkeys(one.reason for one in applied.declined))
        return dataclasses.replace(case, after=SAME, declined=reasons)
    if case.after.startswith("ops:"):
        return dataclasses.replace(case, after="ops: " + " ".join(f"{op}={n}" for op, n in histogram(model).items()))
    random = {text.split()[0] for key, text in case.directives if key == "random"}
    for name in random & set(model.graph.initializers):
        del model.graph.initializers[name]
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.name = None
    return dataclasses.replace(case, after=onnx.printer.to_text(ir.to_proto(model)).replace("\n\n", "\n").strip())


def _case(file: Path, chunk: str) -> Case:
    title, _, rest = chunk.partition("\n")
    head, separator, tail = rest.partition(f"\n{SEPARATOR}\n")
    if not separator:
        raise ValueError(f"case {title!r} in {file} has no line {SEPARATOR}")
    directives, before = _split(head)
    reasons, after = _split(tail)
    if any(key != "declined" for key, _ in reasons):
        raise ValueError(f"case {title!r} in {file}: only '# declined:' may follow {SEPARATOR}")
    return Case(file, title.strip(), directives, before, after, tuple(text for _, text in reasons))


def _split(text: str) -> tuple[tuple[tuple[str, str], ...], str]:
    """Directives (``# key: text``) and the rest."""
    lines = text.strip().splitlines()
    matches = [(line, re.match(r"# *(\w+): *(.*)", line)) for line in lines]
    directives = tuple((match[1], match[2].strip()) for _, match in matches if match)
    return directives, "\n".join(line for line, match in matches if not match).strip()


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(match[1], match[2]) for match in re.finditer(r"(\w+)=(\S+)", text)]


def _name(kind: type[Pass]) -> str | None:
    return vars(kind).get("name")
