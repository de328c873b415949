"""What a matrix product costs in each kernel of ONNX Runtime's CPU provider: a small formula and its measured numbers.

    ns(rows, K, N) = call + K * N * rate(rows)

``call`` is what a call costs whatever its size, with the small operators it needs around it; ``rate`` is nanoseconds
per weight for that many rows. Between measured numbers of rows the logarithm of the rate is interpolated over the
logarithm of the rows; beyond the last the rate grows with the rows. Weights come from memory, not from a cache, as they
do in a model that is larger than the caches.

Tables lie in ``bct_onnx/runtime/costs`` (shipped) or in a file that ``bct-onnx bench --kernels -o FILE.json`` has
written for one machine. A rewrite reads the table that it is told to, never the machine it runs on: equal inputs give
equal bytes.
"""

from __future__ import annotations

import bisect
import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bct_onnx.errors import UsageError

KERNELS = ("float", "int8", "int8-token", "nbits4")
"""MatMul; MatMulIntegerToFloat with a quantization in a constant scale, or in one per token that has to be found first;
MatMulNBits of 4 bits. All with a bias."""

_SHIPPED = Path(__file__).parent / "costs"


@dataclasses.dataclass(frozen=True)
class Kernel:
    """The numbers of one kernel.

    Attributes:
        call_ns: Nanoseconds of a call without any weights.
        rates: (rows, nanoseconds per weight) in ascending order of rows.

    >>> kernel = Kernel(1000.0, ((1, 0.1), (16, 0.4)))
    >>> kernel.ns(1, 10, 100), round(kernel.ns(4, 10, 100)), kernel.ns(32, 10, 100)
    (1100.0, 1200, 1800.0)
    """

    call_ns: float
    rates: tuple[tuple[int, float], ...]

    def ns(self, rows: int, k: int, n: int) -> float:
        """Nanoseconds of a product [rows, k] x [k, n]."""
        return self.call_ns + k * n * self._rate(rows)

    def _rate(self, rows: int) -> float:
        at = bisect.bisect_left([measured for measured, _ in self.rates], rows)
        if at == len(self.rates):
            last, rate = self.rates[-1]
            return rate * rows / last
        after, rate_after = self.rates[at]
        if at == 0:
            return rate_after
        before, rate_before = self.rates[at - 1]
        part = math.log(rows / before) / math.log(after / before)
        return math.exp((1 - part) * math.log(rate_before) + part * math.log(rate_after))


@dataclasses.dataclass(frozen=True)
class Costs:
    """A table of costs.

    Attributes:
        name: What it is called; ``avx2`` or the like.
        about: Which machine it was measured on, and how.
        branch_ns: Choosing one of two forms at run time: an ``If``, and giving the kernel a second row.
        kernels: One for each of `KERNELS`.
    """

    name: str
    about: str
    branch_ns: float
    kernels: Mapping[str, Kernel]

    def to_json(self) -> str:
        """The file `load` reads."""
        kernels = {}
        for name, kernel in self.kernels.items():
            rates = {str(rows): float(f"{ns:.3g}") for rows, ns in kernel.rates}
            kernels[name] = {"call_ns": round(kernel.call_ns, 1), "ns_per_weight": rates}
        whole = {"name": self.name, "about": self.about, "branch_ns": round(self.branch_ns, 1), "kernels": kernels}
        return json.dumps(whole, indent=2) + "\n"


def shipped() -> tuple[str, ...]:
    """Names of the tables that come with the package.

    >>> "avx2" in shipped()
    True
    """
    return tuple(sorted(file.stem for file in _SHIPPED.glob("*.json")))


def load(name: str) -> Costs:
    """A shipped table by its name, or one from a ``.json`` file by its path.

    Raises:
        UsageError: There is none, or it is not such a table.
    """
    file = Path(name) if name.endswith(".json") else _SHIPPED / f"{name}.json"
    if not file.is_file():
        raise UsageError(
            f"no table of costs '{name}'",
            fix=f"use one of {', '.join(shipped())}, or make one with 'bct-onnx bench --kernels -o costs.json'",
        )
    try:
        return _read(json.loads(file.read_text(encoding="utf-8")))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            "not a table of costs",
            where=str(file),
            why=str(error),
            fix="make one with 'bct-onnx bench --kernels -o costs.json'",
        ) from error


def _read(whole: Any) -> Costs:
    kernels = {}
    for name in KERNELS:
        stored = whole["kernels"][name]
        rates = tuple(sorted((int(rows), float(ns)) for rows, ns in stored["ns_per_weight"].items()))
        if not rates or any(rows < 1 or not 0 < ns < math.inf for rows, ns in rates):
            raise ValueError(f"rates of {name} are missing or not positive")
        kernels[name] = Kernel(float(stored["call_ns"]), rates)
    return Costs(str(whole["name"]), str(whole["about"]), float(whole["branch_ns"]), kernels)
