"""The files of targets: which there are, and what each says."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from importlib import resources
from typing import Any

from bct_onnx import toml
from bct_onnx.errors import UsageError, nearest
from bct_onnx.graph import kernels
from bct_onnx.graph.names import names_of
from bct_onnx.targets.target import Form, Fusion, Need, Refusal, Target

DEFAULT = "ort-cpu"
"""The target of a rewrite that names none."""

AT = "@"
"""Between the name of a target and the oldest ONNX Runtime that shall run its results."""

TARGET = "bct_onnx.target"
"""Key of a model's metadata: the target that it was rewritten for."""

_LAST = "clean-up"
"""The pass that ends every lowering."""

_SUFFIX = ".toml"


def settings(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """The settings of sessions for the target that a model was rewritten for, as its metadata tell; none of others.

    >>> dict(settings({"bct_onnx.target": "qnn"})), dict(settings({}))
    ({'session.qdq_matmulnbits_accuracy_level': '0'}, {})
    """
    name = metadata.get(TARGET, "").partition(AT)[0]
    if name in names():
        return find(name).session
    return {}


@functools.cache
def names() -> tuple[str, ...]:
    """The targets there is a file for: the default, then the others in alphabetical order."""
    files = sorted(names_of(resources.files(__package__).iterdir()))
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
        raise UsageError(f"unknown target '{plain}'", fix=nearest(plain, names(), "targets"))
    target = _target(_read(plain))
    if AT in name:
        return _for_runtime(target, runtime)
    return target


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
