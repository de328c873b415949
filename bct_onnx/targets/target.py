"""What a target is: all there is to know of one runtime, read from the TOML file that bears its name.

name = "webgpu"                    opset = 23                     fixed_shapes = false
lowering = "lower-nbits,clean-up"  # the passes that it appends to a pipeline
preset = "w4"                      # what it gets unless another is asked for; the first of all where none is named
adapts = "smooth{strength=1}"      # options that passes get for it unless they are given
[[refuses]]                        # passes whose results it has no use for, by stage
stage = "integer"
why = "..."
[[refuses]]                        # by name, with some values of their options
name = "quantize-activations"
options.per = ["token", "tensor"]
why = "..."
[[needs]]                          # passes that it cannot do without
name = "quantize-dataflow"
why = "..."
engine = "openvino"                # results are also run in it where it is installed
older = "lower-runtime"            # goes before the last pass of the lowering where an older ONNX Runtime is asked for
packs = "remove-padding"           # goes before the last pass too, behind that one
[[accepts]]                        # one way to call these operators; an operator may have several
operators = "MatMul Gemm"          # of another domain: com.microsoft::MatMulNBits
types.T = "float float16"          # by the type variables of the operator's schema; any type where none is named
attributes.bits = [4, 8]           # values that are taken
constant = [1, 2]                  # inputs that have to be constants
scales = ["tensor", "channel"]     # of QuantizeLinear and DequantizeLinear: tensor, channel or block
quantized_result = true            # what the users of the value compute has to be quantized
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from bct_onnx import toml
from bct_onnx.errors import UsageError
from bct_onnx.graph import kernels

DEFAULT = "ort-cpu"
"""The target of a rewrite that names none."""

AT = "@"
"""Between the name of a target and the oldest ONNX Runtime that shall run its results."""

_LAST = "clean-up"
"""The pass that ends every lowering."""

_SUFFIX = ".toml"
TARGET = "bct_onnx.target"
"""Key of a model's metadata: the target that it was rewritten for."""


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to call an operator that a target takes.

    Attributes:
        types: Element types that are taken, by type variable of the operator's schema or by number of the input; all
            where none are named.
        attributes: Values that are taken, by attribute.
        constant: Inputs that have to be constants.
        scales: Layouts of scales that are taken: tensor, channel, block; any if there are none.
        quantized_result: Whether what its users compute has to be quantized.
        kernel: The kernel that it is, which is for some versions of the operator only.
    """

    types: Mapping[str, tuple[str, ...]]
    attributes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    constant: tuple[int, ...] = ()
    scales: tuple[str, ...] = ()
    quantized_result: bool = False
    kernel: kernels.Kernel | None = None

    def covers(self, version: int) -> bool:
        """Whether it is for this version of its operator."""
        return self.kernel is None or self.kernel.covers(version)


@dataclasses.dataclass(frozen=True)
class Fusion:
    """What a runtime makes of several operators, in words."""

    pattern: str
    into: str


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Passes whose results a target has no use for.

    Attributes:
        why: The reason, in words.
        stage: All of this stage, in lower case; empty for the one that is named.
        name: The pass of this name.
        options: The values that it is refused with, by option; with all where none are named.
    """

    why: str
    stage: str = ""
    name: str = ""
    options: Mapping[str, Sequence[object]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Need:
    """A pass that a target cannot do without, and why."""

    name: str
    why: str


@dataclasses.dataclass(frozen=True)
class Target:
    """The facts of one runtime.

    Attributes:
        name: As in ``--target``.
        about: One line for people.
        provider: ONNX Runtime's execution provider.
        opset: Highest opset of standard operators.
        kernels: The version of ONNX Runtime whose kernels are taken; empty where operators are listed.
        runtime: The oldest ONNX Runtime that shall run results, as ``NAME@1.20`` asks for; empty for the usual one.
        older: The pass that brings results to one that is older than usual; empty where that is not known to work.
        accepts: The ways in which each operator is taken, by its name (`bct_onnx.graph.operators.name`).
        lowering: Pipeline text of the passes that it appends to a pipeline.
        packs: Pipeline text of passes that take away what is computed for nobody; they are in ``lowering`` too.
        preset: What it gets unless another preset is asked for; empty for the first of all.
        adapts: Pipeline text of passes with the options that they get for it, unless these are given.
        refuses: Passes whose results it has no use for.
        needs: Passes that it cannot do without.
        standard: All standard operators are taken, and no others but functions.
        expands: Standard operators without a kernel that ONNX defines by others are expanded.
        widens: A type that is run as float32 where there is no kernel for it; empty for none.
        fixed_shapes: Every size has to be known.
        must: Operators that may not fall back to the CPU provider; ``*`` is all.
        fuses: What it makes of several operators.
        engine: The runtime in which results are run and timed besides ONNX Runtime, if it is installed; empty for none.
        session: Settings of an ONNX Runtime session on this machine, in which a result is judged as it is written.
        caution: What was seen to go wrong with compressed models on this target; empty if nothing.
        sources: Where all this is from.
    """

    name: str
    about: str
    provider: str
    opset: int
    accepts: Mapping[str, tuple[Form, ...]]
    lowering: str
    packs: str = ""
    preset: str = ""
    adapts: str = ""
    refuses: tuple[Refusal, ...] = ()
    needs: tuple[Need, ...] = ()
    kernels: str = ""
    runtime: str = ""
    older: str = ""
    standard: bool = False
    expands: bool = False
    widens: str = ""
    fixed_shapes: bool = False
    must: frozenset[str] = frozenset()
    fuses: tuple[Fusion, ...] = ()
    engine: str = ""
    session: Mapping[str, str] = dataclasses.field(default_factory=dict)
    caution: str = ""
    sources: tuple[str, ...] = ()

    def may_fall_back(self, operator: str) -> bool:
        """Whether the CPU provider may run ``operator`` instead."""
        return "*" not in self.must and operator not in self.must


def settings(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """The settings of sessions for the target that a model was rewritten for, as its metadata tell; none of others.

    >>> dict(settings({"bct_onnx.target": "qnn"})), dict(settings({}))
    ({'session.qdq_matmulnbits_accuracy_level': '0'}, {})
    """
    name = metadata.get(TARGET, "").partition(AT)[0]
    return find(name).session if name in names() else {}


@functools.cache
def names() -> tuple[str, ...]:
    """The targets there is a file for: the default, then the others in alphabetical order."""
    files = sorted(file.name for file in resources.files(__package__).iterdir())
    others = [name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX)]
    others.remove(DEFAULT)
    return (DEFAULT, *others)


@functools.cache
def find(name: str) -> Target:
    """The target called ``name``, as it is or, behind an ``@``, for an older ONNX Runtime.

    Raises:
        UsageError: There is none.

    >>> find("qnn").fixed_shapes, sorted(find("webgpu").accepts["com.microsoft::MatMulNBits"][0].attributes)
    (True, ['bits', 'block_size'])
    >>> find("ort-cpu@1.20").lowering.split(",")[-3:]
    ['lower-runtime{version=1.20}', 'remove-padding{outputs=rows}', 'clean-up']
    """
    plain, _, runtime = name.partition(AT)
    if plain not in names():
        close = difflib.get_close_matches(plain, names(), n=1)
        fix = f"did you mean '{close[0]}'?" if close else "targets: " + ", ".join(names())
        raise UsageError(f"unknown target '{plain}'", fix=fix)
    target = _target(_read(plain))
    return _for_runtime(target, runtime) if AT in name else target


def _for_runtime(target: Target, version: str) -> Target:
    """A target whose results the ONNX Runtime of a version runs too.

    Raises:
        UsageError: The version is not known, or the target is not for ONNX Runtime's own kernels.
    """
    if version not in kernels.versions():
        known = f"{kernels.versions()[0]} to {kernels.versions()[-1]}"
        raise UsageError(f"ONNX Runtime '{version}' is not known", fix=f"known are {known}, without a third number")
    if not target.older:
        raise UsageError(
            f"target {target.name} has no older runtimes",
            why=f"which operators {target.provider} had in older versions is not known here",
            fix="leave out --min-runtime; the report says which version the file needs",
        )
    lowering, name = target.lowering, f"{target.name}{AT}{version}"
    if kernels.versions().index(version) < kernels.versions().index(kernels.LOWEST):
        closing = target.packs + "," if target.packs else ""
        passes, last = lowering.removesuffix(_LAST).removesuffix(closing), closing + _LAST
        lowering = f"{passes}{target.older}{{version={version}}},{last}"
    return dataclasses.replace(target, name=name, runtime=version, lowering=lowering)


def for_runtime(name: str, version: str | None, opset: int | None) -> str:
    """The name of a target for an older ONNX Runtime, or for the newest that loads no opset beyond one.

    >>> for_runtime("ort-cpu", "1.20", None), for_runtime("ort-cpu", None, 22), for_runtime("ort-cpu", None, None)
    ('ort-cpu@1.20', 'ort-cpu@1.22', 'ort-cpu')

    Raises:
        UsageError: Both are given, or no version is known that loads no more than this opset.
    """
    if version is not None and opset is not None:
        raise UsageError("--min-runtime and --opset cannot go together", fix="give one of them")
    if opset is not None:
        version = kernels.newest_of(opset)
        if version is None:
            least = kernels.runtime(kernels.versions()[0]).opset
            raise UsageError(f"opset {opset} is out of range", fix=f"{least} (the first with 4-bit types) or more")
    plain = name.partition(AT)[0]
    name = name if version is None else f"{plain}{AT}{version}"
    return find(name).name


def _read(name: str) -> dict[str, Any]:
    """The file of a target; ``like`` names another whose entries it has, but for its own."""
    own = toml.loads(resources.files(__package__).joinpath(name + _SUFFIX).read_text(encoding="utf-8"))
    if "like" not in own:
        return own
    return _read(own.pop("like")) | own


def _lowering(data: Mapping[str, Any]) -> str:
    """The passes of a target, those that pack before the last."""
    passes: str = data["lowering"].replace("\n", "")
    if not data.get("packs"):
        return passes
    return f"{passes.removesuffix(_LAST)}{data['packs']},{_LAST}"


def _target(data: dict[str, Any]) -> Target:
    accepts: dict[str, tuple[Form, ...]] = {}
    if "kernels" in data:
        accepts = _registered(data["kernels"])
    for group in data.pop("accepts", ()):
        for operator in group["operators"].split():
            accepts[operator] = (*accepts.get(operator, ()), _form(group))
    tables = {
        "accepts": accepts,
        "lowering": _lowering(data),
        "must": frozenset(data.get("must", "").split()),
        "fuses": tuple(Fusion(**entry) for entry in data.get("fuses", ())),
        "refuses": tuple(Refusal(**entry) for entry in data.get("refuses", ())),
        "needs": tuple(Need(**entry) for entry in data.get("needs", ())),
        "sources": tuple(data["sources"]),
    }
    return Target(**data | tables)


def _form(group: dict[str, Any]) -> Form:
    return Form(
        {variable: tuple(types.split()) for variable, types in group.get("types", {}).items()},
        {name: tuple(values) for name, values in group.get("attributes", {}).items()},
        tuple(group.get("constant", ())),
        tuple(group.get("scales", ())),
        group.get("quantized_result", False),
    )


def _registered(version: str) -> dict[str, tuple[Form, ...]]:
    """The kernels that a version of ONNX Runtime has on CPUs."""
    forms = {}
    for operator, registered in kernels.runtime(version).kernels.items():
        forms[operator] = tuple(Form(kernel.types, kernel=kernel) for kernel in registered)
    return forms
