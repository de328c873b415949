"""What has to hold for grown models: results agree with their sources on samples that make sense to the model."""

from __future__ import annotations

import math
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bct_onnx.errors import BctError, TargetError
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.session import ORT_ERRORS, session, short_message
from tests.fuzz.grown.model import Grown, GrownCase
from tests.fuzz.judge import Verdict

LIFT_DB = 60.0
"""Least SQNR of the passes that promise to be exact: what float rounding, enlarged by a few layers, leaves."""

REFERENCES, SLACK = {"w4a8-nearest": "w4", "bct": "shift4"}, 4.0
"""Presets may lose this many dB more than the one that differs from them in what they risk: for w4a8-nearest that whose
activations stay float; for bct that with its shift blocks; for others w4a8, whose scales are found at run time."""

LEAST_DB = 3.0
"""Below this a result has hardly anything to do with its source, whatever the reference gives; a text for which another
expert is chosen leaves 5. Probabilities are held to it by the scores they come from: the relative error of a
probability is the absolute error of its score. Scores of standard deviation 4 with an error of 8 dB, which the weights
of ``bct`` leave behind some ten random products, give probabilities of 1 dB and still most answers."""

LEAST_PROBABILITY = 1e-6
"""Smaller probabilities count as this one: 8-bit codes make them zero."""

GOOD_DB = 40.0
"""An error of a hundredth: enough, however much better the reference is where hardly a weight is quantized."""

CODED, CODED_DB = ("bct-plus", "bct"), 19.0
"""Enough where every intermediate result is 8-bit codes and the reference's are floats: codes of a value whose largest
is four times its root mean square keep 41 dB; a largest of sixteen times takes 12 of these, ten such places in a row
10."""

RATIO, LARGE = 2.0, 200_000
"""Sources of more bytes become this many times smaller at least, wherever their weights lie."""

NOTHING, SMALL = "nothing was compressed", 1024
"""The refusal of a model all of whose weights have fewer values than presets look at."""

Outputs = list[list[npt.NDArray[Any]]]


def judge(case: GrownCase, folder: Path) -> Verdict:
    """Rewrite a grown model with one preset for one target, and compare both in ONNX Runtime.

    Args:
        case: Which model.
        folder: An empty folder to work in.
    """
    grown, told = case.grow(), str(case)
    preset, target = case.pipeline()
    source = case.write(folder)
    expected = _outputs(source, grown)
    try:
        result = _rewritten(source, preset, target)
    except BctError as error:
        if error.what == NOTHING and _largest_weight(grown) < SMALL:
            return Verdict(False, NOTHING, told)
        return Verdict(True, f"a sound model: {type(error).__name__}: {error.what}", f"{told}\n{error}")
    except Exception as error:  # what fuzzing is there to find: reported as a failure, whatever it is
        return Verdict(True, f"{type(error).__name__} while rewriting", f"{told}\n{traceback.format_exc()}")
    try:
        found = _outputs(result, grown)
    except BctError as error:
        return Verdict(True, f"the result does not run: {error.what}", f"{told}\n{error}")
    decibels, related = _worst(expected, found), _worst(*_scores(expected, found))
    if related < LEAST_DB or decibels < _bound(source, grown, preset, target, expected, decibels):
        detail = f"{told}\n{decibels:.1f} dB, probabilities by their scores {related:.1f} dB"
        return Verdict(True, f"{preset} is far from its source", detail)
    ratio = source.stat().st_size / result.stat().st_size
    if preset != "lift" and source.stat().st_size > LARGE and ratio < RATIO:
        return Verdict(True, f"{preset} leaves weights as they are", f"{told}\n{ratio:.2f} times smaller")
    return Verdict(False, f"{preset}: done, outputs agree", told)


def _bound(source: Path, grown: Grown, preset: str, target: str, expected: Outputs, decibels: float) -> float:
    """The least SQNR; the reference is made only for what is not good anyway."""
    if preset == "lift":
        return LIFT_DB
    good = CODED_DB if preset in CODED else GOOD_DB
    if decibels >= good:
        return good
    reference = REFERENCES.get(preset, "w4a8")
    other = "ort-cpu" if target == "ort-cpu-integer" else target
    best = _worst(expected, _outputs(_rewritten(source, reference, other), grown))
    return min(good, best - SLACK)


def _rewritten(source: Path, preset: str, target: str) -> Path:
    result = source.with_name(f"{preset}.onnx")
    rewrite(source, preset, target=target, options=Options(result))
    return result


def _largest_weight(grown: Grown) -> int:
    """Values of the largest constant, those of ``Constant`` nodes among them; kernels that overlap are no matrices."""
    attributes = [attribute.t for node in grown.model.graph.node for attribute in node.attribute]
    tensors = [*grown.model.graph.initializer, *attributes]
    return max(math.prod(map(int, tensor.dims)) for tensor in tensors if math.prod(tensor.dims[2:]) == 1)


def _outputs(path: Path, grown: Grown) -> Outputs:
    runner = session(path)
    try:
        return [runner.run(None, sample) for sample in grown.samples]  # those that need not be given among them
    except ORT_ERRORS as error:
        raise TargetError("ONNX Runtime cannot run the model", where=str(path), why=short_message(error)) from error


def _worst(expected: Outputs, found: Outputs) -> float:
    """SQNR in dB of the worst output over all samples; -inf where shapes differ or something is not finite."""
    pairs = [list(zip(*each, strict=True)) for each in zip(expected, found, strict=True)]
    return min(_decibels([one[i] for one in pairs]) for i in range(len(pairs[0])))


def _scores(expected: Outputs, found: Outputs) -> tuple[Outputs, Outputs]:
    """Both with the scores of probabilities in their place, up to what softmax takes no notice of."""
    before, after = [list(sample) for sample in expected], [list(sample) for sample in found]
    for index, output in enumerate(expected[0]):
        if not _are_probabilities(output):
            continue
        for sample in (*before, *after):
            sample[index] = _score(sample[index])
    return before, after


def _are_probabilities(array: npt.NDArray[Any]) -> bool:
    return array.dtype.kind == "f" and bool((array >= 0).all() and np.allclose(array.sum(axis=-1), 1, atol=1e-3))


def _score(probabilities: npt.NDArray[Any]) -> npt.NDArray[Any]:
    logarithms = np.log(np.maximum(probabilities, LEAST_PROBABILITY))
    scores: npt.NDArray[Any] = logarithms - logarithms.mean(axis=-1, keepdims=True)
    return scores


def _decibels(pairs: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> float:
    """Over the samples of one output; what is picked or named by the largest of others may differ with those."""
    if pairs[0][0].dtype.kind != "f":
        return np.inf if all(before.shape == np.shape(after) for before, after in pairs) else -np.inf
    signal = noise = 0.0
    for before, after in pairs:
        if before.shape != after.shape or not np.isfinite(after).all():
            return -np.inf
        signal += float(np.square(before.astype(np.float64)).sum())
        noise += float(np.square(before.astype(np.float64) - after).sum())
    return np.inf if noise == 0 else 10 * float(np.log10(max(signal, 1e-300) / noise))
