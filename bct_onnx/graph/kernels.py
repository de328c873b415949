"""Which operators ONNX Runtime's CPU provider runs, by version: data, so that no result depends on what is installed.

A node runs where a kernel covers the version of its operator (that of the last opset, up to the model's, in which the
operator changed), or where the runtime expands the operator into others. The tables lie in
``bct_onnx/graph/registered``, each but the newest as what differs from a newer one; ``models/kernels.py`` writes them.
`LOWEST` is the oldest runtime that results are made for unless an older one is asked for:
`bct_onnx.graph.opset.best` keeps a model at an opset where it has all that the model needs.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx.defs

from bct_onnx.graph.names import map_values, stated

LOWEST, NEWEST = "1.23", "1.32"
"""The oldest runtime that results are made for unless another is asked for, and the newest that is known."""

MICROSOFT = "com.microsoft"
"""The domain of most of ONNX Runtime's own operators."""

EXPANDED_FROM = 13
"""The first opset that tables tell about where the runtime writes operators as others."""

_TABLES = Path(__file__).parent / "registered"


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kernel.

    Attributes:
        since: The first version of the operator that it is for.
        end: The last; 0 where the runtime knew no later version of the operator than ``since``.
        types: Element types that it takes, by type variable; sequences and the like are written out.
    """

    since: int
    end: int
    types: Mapping[str, tuple[str, ...]]

    def covers(self, version: int) -> bool:
        """Whether it is for this version of its operator."""
        return self.since == version or self.since < version <= self.end


@dataclasses.dataclass(frozen=True)
class Runtime:
    """What one version of ONNX Runtime has on CPUs.

    Attributes:
        version: Its version, as in "1.23".
        release: The release that was looked at, as in "1.23.1".
        ir_version: The newest version of the file format that it loads.
        opset: The newest opset that it loads.
        kernels: The kernels of each operator, by its name as target files write it.
        expanded: The opsets, from `EXPANDED_FROM` on, in which it writes an operator without kernel as others.
        variables: The type variables of the inputs, for operators that are not ONNX's.
        attributes: The attributes that its own operators know.
        values: The values of attributes that it computes with, by operator and attribute; any where none are named.
        variadic: Its own operators that take any number of inputs.
    """

    version: str
    release: str
    ir_version: int
    opset: int
    kernels: Mapping[str, tuple[Kernel, ...]]
    expanded: Mapping[str, tuple[int, ...]]
    variables: Mapping[str, tuple[str, ...]]
    attributes: Mapping[str, frozenset[str]]
    values: Mapping[str, Mapping[str, tuple[int, ...]]]
    variadic: frozenset[str]

    def knows(self, operator: str) -> bool:
        """Whether it runs the operator in some opset."""
        return operator in self.kernels or operator in self.expanded

    def runs(self, operator: str, opset: int) -> bool:
        """Whether a node of this opset can be run (for some types).

        >>> [runtime("1.23").runs("RandomNormalLike", opset) for opset in (15, 21, 22)]
        [True, True, False]
        >>> runtime("1.23").runs("QuantizeLinear", 22), runtime("1.23").runs("QuantizeLinear", 23)
        (True, False)
        """
        return opset in self.expanded.get(operator, ()) or bool(self.covering(operator, version(operator, opset)))

    def covering(self, operator: str, since: int) -> list[Kernel]:
        """The kernels of an operator for the version of it that there is since an opset."""
        return [kernel for kernel in self.kernels.get(operator, ()) if kernel.covers(since)]


def version(operator: str, opset: int) -> int:
    """The version of an operator that an opset has: the last opset in which it changed; 1 for what is not ONNX's.

    >>> version("RandomNormalLike", 21), version("RandomNormalLike", 23), version("com.microsoft::QGemm", 1)
    (1, 22, 1)
    """
    domain, _, op_type = operator.rpartition("::")
    if not onnx.defs.has(op_type, opset, domain):
        return 1
    return int(onnx.defs.get_schema(op_type, opset, domain).since_version)


@functools.cache
def versions() -> tuple[str, ...]:
    """The versions that there are tables for, the oldest first.

    >>> versions()[0], versions()[-1] == NEWEST
    ('1.18', True)
    """
    stored = [file.stem.removeprefix("ort-") for file in _TABLES.glob("ort-*.json")]
    return tuple(sorted(stored, key=lambda version: list(map(int, version.split(".")))))


def newest_of(opset: int) -> str | None:
    """The newest version that loads no opset beyond one; None where there is none.

    >>> newest_of(21), newest_of(12)
    ('1.20', None)
    """
    fitting = [version for version in versions() if runtime(version).opset <= opset]
    if fitting:
        return fitting[-1]
    return None


@functools.cache
def runtime(version: str) -> Runtime:
    """The table of one version of ONNX Runtime."""
    data = _table(version)
    return Runtime(
        data["version"],
        data["release"],
        data["ir"],
        data["opset"],
        map_values(_kernels, data["kernels"]),
        map_values(tuple, data["expanded"]),
        map_values(_words, data["inputs"]),
        map_values(frozenset, map_values(_words, data["attributes"])),
        data["values"],
        frozenset(data["variadic"]),
    )


def _table(version: str) -> dict[str, Any]:
    """The whole table of a version; ``like`` names a newer one, of which the file says what differs."""
    own: dict[str, Any] = json.loads((_TABLES / f"ort-{version}.json").read_text(encoding="utf-8"))
    if "like" not in own:
        return own
    newer = _table(own.pop("like"))
    whole = dict(newer)
    for key, value in own.items():
        whole[key] = value
        if isinstance(value, dict):
            whole[key] = stated(newer[key] | value)
    return whole


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _kernels(entries: Iterable[tuple[int, int, Mapping[str, str]]]) -> tuple[Kernel, ...]:
    return tuple(Kernel(since, end, map_values(_words, types)) for since, end, types in entries)


def is_own(op_type: str) -> bool:
    """Whether an operator of the default domain is ONNX Runtime's and not ONNX's: it is the same at every opset.

    >>> is_own("SimplifiedLayerNormalization"), is_own("LayerNormalization")
    (True, False)
    """
    return runtime(NEWEST).knows(op_type) and op_type not in _standard()


def is_gone(op_type: str, opset: int) -> bool:
    """Whether an opset has no such operator, or none any more."""
    return not onnx.defs.has(op_type, opset, "") or bool(onnx.defs.get_schema(op_type, opset).deprecated)


@functools.cache
def _standard() -> frozenset[str]:
    return frozenset(schema.name for schema in onnx.defs.get_all_schemas_with_history() if not schema.domain)


def held_back(operators: Iterable[str], opset: int, version: str = LOWEST) -> tuple[str, ...]:
    """Those of ONNX's operators that a runtime has in some opset but not in this one.

    >>> held_back(["MatMul", "RandomNormalLike"], 23), held_back(["MatMul", "RandomNormalLike"], 21)
    (('RandomNormalLike',), ())
    """
    known = runtime(version)
    missing: list[str] = []
    for operator in sorted(set(operators)):
        if known.knows(operator) and not known.runs(operator, opset) and not is_gone(operator, opset):
            missing.append(operator)
    return tuple(missing)
