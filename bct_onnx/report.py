"""What one rewrite has done, as data: `bct_onnx.cli` prints it, ``--json`` dumps it, callers read it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from bct_onnx.base import Declined, Site, Stage
from bct_onnx.figures import as_dict, finite
from bct_onnx.graph.inventory import Inventory
from bct_onnx.graph.runtimes import Lowest
from bct_onnx.quant import Error
from bct_onnx.runtime.parity import Parity
from bct_onnx.runtime.session import CPU
from bct_onnx.study.allocation import Allocation
from bct_onnx.targets import Legality, Products, find


@dataclasses.dataclass(frozen=True)
class Step:
    """One pass of a run.

    Attributes:
        text: The pass as pipeline text.
        stage: What it is for.
        sites: What it changed.
        declined: What it did not change, and why.
        nbytes: Bytes of weights after it.
        parameters: Number of parameters after it, as far as it can be told from the graph.
        seconds: Wall time.
        parity: Outputs after this pass against the input model's, if each pass was verified.
        note: What a reader should know of the pass as a whole.
    """

    text: str
    stage: Stage
    sites: tuple[Site, ...]
    declined: tuple[Declined, ...]
    nbytes: int
    parameters: int
    seconds: float
    parity: Parity | None = None
    note: str = ""

    @property
    def sqnr_db(self) -> float | None:
        """Signal to quantization noise of all weights it approximated, in dB; None if there are none."""
        errors = [site.error for site in self.sites if site.error is not None]
        if errors:
            return sum(errors, Error()).sqnr_db
        return None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "pass": self.text,
            "changed": len(self.sites),
            "declined": list(map(dataclasses.asdict, self.declined)),
            "bytes": self.nbytes,
            "sqnr_db": finite(self.sqnr_db),
            "seconds": round(self.seconds, 3),
            "parity": as_dict(self.parity),
            "note": self.note,
        }


@dataclasses.dataclass(frozen=True)
class Timing:
    """Latency of one input shape before and after, in milliseconds (medians), one thread, interleaved."""

    batch: int
    sequence: int
    before_ms: float
    after_ms: float


@dataclasses.dataclass(frozen=True)
class Report:
    """All that is known about a run.

    Attributes:
        pipeline: The pipeline text with every option spelled out; running it again gives the same bytes.
        target: The runtime the result was lowered for.
        steps: The passes in order.
        before: Inventory of the input.
        after: Inventory of the result.
        files: What was written (empty for a dry run or a model in memory).
        file_bytes: Bytes read and bytes written; the second is a prediction in a dry run.
        transfer_bytes: Size of the written files after gzip, or None if that was not measured.
        parity: Outputs of the result against the input model's, or None with the reason in `unchecked`.
        timings: Latency before and after.
        load_seconds: Time ONNX Runtime takes to create a session, before and after.
        unchecked: Why outputs were not compared; empty if they were.
        kept: Folder with one file per pass, if asked for.
        legality: What the target takes, and what falls back to the CPU provider.
        products: What the integer products assume of CPUs.
        allocation: The formats that ``allocate`` has chosen; None where it was not asked.
        elsewhere: Outputs of the result in the target's own runtime against the input model's in ONNX Runtime; None
            where the target has none that is installed.
        timed_in: That runtime with its version, where times are of it; empty where they are of ONNX Runtime on the CPU.
        untimed: Why nothing was timed there; empty if it was.
        lowest: The oldest ONNX Runtime whose CPU provider runs the result; None where none is known to.
    """

    pipeline: str
    target: str
    steps: tuple[Step, ...]
    before: Inventory
    after: Inventory
    files: tuple[Path, ...] = ()
    file_bytes: tuple[int, int] = (0, 0)
    transfer_bytes: int | None = None
    parity: Parity | None = None
    timings: tuple[Timing, ...] = ()
    load_seconds: tuple[float, float] | None = None
    unchecked: str = ""
    kept: Path | None = None
    legality: Legality | None = None
    products: Products | None = None
    allocation: Allocation | None = None
    lowest: Lowest | None = None
    elsewhere: Parity | None = None
    timed_in: str = ""
    untimed: str = ""

    @property
    def speeds(self) -> tuple[Timing, ...]:
        """Times in the runtime of the target; none where they are of the CPU provider and it has another."""
        if self.timed_in or find(self.target).provider == CPU:
            return self.timings
        return ()

    @property
    def caution(self) -> str:
        """What was seen to go wrong with compressed models on the target; empty if nothing."""
        if any(step.sites and step.stage.quantizes for step in self.steps):
            return find(self.target).caution
        return ""

    @property
    def changed(self) -> int:
        """Number of places changed by all passes."""
        return sum(len(step.sites) for step in self.steps)

    @property
    def ratio_file(self) -> float:
        """Bytes read over bytes written."""
        if self.file_bytes[1]:
            return self.file_bytes[0] / self.file_bytes[1]
        return 1.0

    @property
    def float_weights_left(self) -> list[tuple[str, int, str]]:
        """``(name, bytes, reason)`` of what stayed in floating point, the largest first."""
        reasons: dict[str, str] = {}
        for step in reversed(self.steps):  # what the first pass said of a tensor counts
            reasons |= {declined.name: declined.reason for declined in step.declined}
        return self.after.float_weights_left(reasons)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: every figure of the table, unrounded."""
        return {
            "pipeline": self.pipeline,
            "target": self.target,
            "caution": self.caution,
            "steps": list(map(Step.as_dict, self.steps)),
            **inventory_figures(self.after),
            "ratio_file": self.ratio_file,
            "bytes_in": self.file_bytes[0],
            "bytes_out": self.file_bytes[1],
            "bytes_transfer": self.transfer_bytes,
            "ops_before": self.before.operators,
            "float_weights_left": left_figures(self.float_weights_left),
            "parity": as_dict(self.parity),
            "unchecked": self.unchecked,
            "latency_ms": list(map(dataclasses.asdict, self.timings)),
            "timed_in": self.timed_in or "ONNX Runtime",
            "parity_there": as_dict(self.elsewhere),
            "load_seconds": self.load_seconds,
            "files": list(map(str, self.files)),
            "kept_passes": None if self.kept is None else str(self.kept),
            "legality": as_dict(self.legality),
            "lowest_runtime": None if self.lowest is None else dataclasses.asdict(self.lowest),
            "int8_products": as_dict(self.products),
        }


def inventory_figures(inventory: Inventory) -> dict[str, Any]:
    """The figures that `rewrite` and `inspect` share, for JSON."""
    return {
        "parameters": inventory.parameters,
        "bits_per_weight": inventory.bits_per_weight,
        "ratio_parameters": inventory.ratio_parameters,
        "bytes_by_kind": inventory.bytes_by_kind(),
        "ops": inventory.operators,
    }


def left_figures(left: list[tuple[str, int, str]]) -> list[dict[str, Any]]:
    """Float weights left, for JSON."""
    return [{"name": name, "bytes": nbytes, "reason": reason} for name, nbytes, reason in left]
