"""How fast a decoder with a key-value cache answers: time to the first token, and for each token after it.

All models are fed the same tokens, whatever they would have said, so that all do the same work. The cache goes from a
run's outputs to the next run's inputs without leaving ONNX Runtime, as it would in a program that generates.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from bct_onnx.errors import TargetError, UsageError
from bct_onnx.graph.names import map_values, names_of
from bct_onnx.runtime.feeds import Feeds, random_feeds
from bct_onnx.runtime.inputs import cache_names, ids_input, inputs_of
from bct_onnx.runtime.latency import Latency, in_turn
from bct_onnx.runtime.session import ORT_ERRORS, short_message


@dataclass(frozen=True)
class Decoding:
    """Milliseconds per round to the first token (the whole prompt), and per token after it (median of the round)."""

    first: Latency
    token: Latency


def measure_decoding(
    sessions: Mapping[str, ort.InferenceSession],
    *,
    batch: int = 1,
    prompt: int = 128,
    tokens: int = 16,
    rounds: int = 5,
    vocab: Mapping[str, int] | None = None,
) -> dict[str, Decoding]:
    """Feed every model a prompt and then one token after the other, in turn, after a round that does not count.

    Args:
        sessions: The models by name.
        batch: Sequences at once.
        prompt: Tokens of the prompt.
        tokens: Single tokens fed after it, at least 1.
        rounds: Timed rounds, at least 1.
        vocab: Token ids stay below it, per input.

    Raises:
        UsageError: A model has no key-value cache.
        TargetError: A model fails, for example because the sequence gets too long for it.
    """
    firsts, others = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    steps = {name: _steps(session, batch, prompt, tokens, vocab) for name, session in sessions.items()}
    for number in range(-1, rounds):
        for name in in_turn(list(sessions), number):
            first, *rest = _generate(sessions[name], steps[name])
            if number >= 0:
                firsts[name].append(first)
                others[name].append(statistics.median(rest))
    return {name: Decoding(Latency(tuple(firsts[name])), Latency(tuple(others[name]))) for name in sessions}


def _steps(
    session: ort.InferenceSession, batch: int, prompt: int, tokens: int, vocab: Mapping[str, int] | None
) -> list[Feeds]:
    """The inputs of each run; the cache is that of no past, which the first run takes."""
    cache = cache_names(session)
    declared = inputs_of(session)
    if not cache:
        names = ", ".join(names_of(declared))
        raise UsageError("the model has no key-value cache", why=f"inputs are {names}", fix="export it with --cache")
    ids = ids_input(declared).name
    whole = random_feeds(session, batch=batch, sequence=prompt + tokens, vocab=vocab)[ids]
    steps = []
    for start, end in [(0, prompt), *((past, past + 1) for past in range(prompt, prompt + tokens))]:
        feeds = random_feeds(session, batch=batch, sequence=end - start, vocab=vocab)
        feeds[ids] = whole[:, start:end]
        for each in declared:
            if "position" in each.name:
                feeds[each.name] = feeds[each.name] + np.asarray(start, feeds[each.name].dtype)
            elif "mask" in each.name and feeds[each.name].ndim == 2:
                feeds[each.name] = np.ones((batch, end), feeds[each.name].dtype)
            elif each.name == "use_cache_branch":
                feeds[each.name] = np.full_like(feeds[each.name], start > 0)
        steps.append(feeds if start == 0 else {name: feeds[name] for name in feeds if name not in cache})
    return steps


def _generate(session: ort.InferenceSession, steps: list[Feeds]) -> list[float]:
    """Milliseconds of each run."""
    cache = cache_names(session)
    outputs = names_of(session.get_outputs())
    kept: dict[str, ort.OrtValue] = {}
    times = []
    for feeds in steps:
        inputs = map_values(ort.OrtValue.ortvalue_from_numpy, feeds) | kept
        start = time.perf_counter()
        try:
            results = dict(zip(outputs, session.run_with_ort_values(outputs, inputs), strict=True))
        except ORT_ERRORS as error:
            raise TargetError("ONNX Runtime cannot run the decoder", why=short_message(error)) from error
        times.append((time.perf_counter() - start) * 1e3)
        kept = {past: results[present] for past, present in cache.items()}
    return times
