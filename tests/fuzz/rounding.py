"""What outputs of a source move by that no pass is to blame for: fusions of the runtime, and its own rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from bct_onnx.graph.names import names_of
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.parity import compare_outputs
from bct_onnx.runtime.session import run, session

EXACT_DB = 60.0
"""What passes that promise to be exact have to keep."""

SAMPLES_DB = 10.0
"""Orders of summation are many, and the source is moved once."""


def not_of_a_pass(path: Path, output: Path, feeds: Feeds) -> str:
    """What of the runtime or of the source makes outputs move; empty where it is none of these."""
    if same_without_fusions(path, output, feeds):
        return "outputs agree without the runtime's fusions"
    if is_noise(path, output, feeds):
        return "outputs of the source are noise"
    if same_with_codes_divided_in_float32(path, output, feeds):
        return "outputs agree where codes of float16 are divided in float32"
    return ""


def same_without_fusions(path: Path, output: Path, feeds: Feeds) -> bool:
    """Whether ONNX Runtime makes the difference: whether it fuses int8 products depends on dead nodes too."""
    before, after = ([run(session(each, optimize="disabled"), feeds)] for each in (path, output))
    return compare_outputs(before, after).sqnr_db >= EXACT_DB


def same_with_codes_divided_in_float32(path: Path, output: Path, feeds: Feeds) -> bool:
    """Whether the source gives the same where its quantizers divide float16 in float32, which ``precision`` asks for.

    Below opset 23, and in ONNX Runtime's own operator, there is no other division: see `LowerQuantize`.
    """
    proto = onnx.load(path)
    if not any(each.domain == "" and each.version >= 23 for each in proto.opset_import):
        return False
    for node in proto.graph.node:
        if node.op_type == "QuantizeLinear" and not node.domain and "precision" not in names_of(node.attribute):
            node.attribute.append(helper.make_attribute("precision", onnx.TensorProto.FLOAT))
    before = run(session(proto.SerializeToString()), feeds)
    return compare_outputs([before], [run(session(output), feeds)]).sqnr_db >= EXACT_DB


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
