"""What outputs of a source move by that no pass is to blame for: fusions of the runtime, and its own rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.parity import compare_outputs
from bct_onnx.runtime.session import run, session

EXACT_DB = 60.0
"""What passes that promise to be exact have to keep."""

SAMPLES_DB = 10.0
"""Orders of summation are many, and the source is moved once."""


def same_without_fusions(path: Path, output: Path, feeds: Feeds) -> bool:
    """Whether ONNX Runtime makes the difference: whether it fuses int8 products depends on dead nodes too."""
    before, after = ([run(session(each, optimize="disabled"), feeds)] for each in (path, output))
    return compare_outputs(before, after).sqnr_db >= EXACT_DB


def is_noise(path: Path, output: Path, feeds: Feeds) -> bool:
    """Whether the source moves as far when the fractions that it is fed change by one unit in the last place."""
    nudged = dict(feeds)
    for name, array in feeds.items():
        if array.dtype.kind == "f":
            upwards = np.nextafter(array, array.dtype.type(np.inf))
            nudged[name] = np.where(array == np.rint(array), array, upwards)
    source = session(path)
    before, shaken, after = [run(source, feeds)], [run(source, nudged)], [run(session(output), feeds)]
    noise = compare_outputs(before, shaken)
    return not noise.finite or noise.sqnr_db <= compare_outputs(before, after).sqnr_db + SAMPLES_DB
