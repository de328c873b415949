"""Jobs and tiles: where a weight lies, and in which pieces it is worked on, changes nothing."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bct_onnx.errors import InputModelError
from bct_onnx.quant import Scheme, jobs, quantize, sqnr_db, tiles, two_level
from bct_onnx.quant.blocks import quantize_measured
from bct_onnx.quant.moments import Moments
from bct_onnx.quant.residual import squared_error
from bct_onnx.quant.stored import Stored
from tests.quant.strategies import normal

SCHEMES = (
    Scheme(4, 32, signed_scales=True),
    Scheme(2, (16, 4)),
    Scheme(4, 32, symmetric=False),
    Scheme(8, 32),
    Scheme(3, 32, scale="float16"),
    Scheme(4, 16, scale="shift"),
)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("shape", [(96, 67), (70, 129), (1030, 3)])
def test_the_size_of_a_tile_changes_nothing(
    scheme: Scheme, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = normal(*shape)
    whole = quantize(weight, scheme)
    monkeypatch.setattr(tiles, "TILE_VALUES", 1)
    monkeypatch.setattr(tiles, "_LEAST_COLUMNS", 8)
    cut = quantize(weight, scheme, strip_values=2000)
    np.testing.assert_array_equal(whole.codes, cut.codes)
    np.testing.assert_array_equal(whole.steps(), cut.steps())


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_transposed_weight_has_the_same_blocks(scheme: Scheme) -> None:
    weight = normal(96, 40)
    turned = quantize(np.ascontiguousarray(weight.T).T, scheme)
    np.testing.assert_array_equal(quantize(weight, scheme).codes, turned.codes)
    assert turned.codes.T.flags.c_contiguous  # as it is stored


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("order", ["C", "F"])
def test_errors_are_those_of_the_whole_matrix(scheme: Scheme, order: Any) -> None:
    weight: npt.NDArray[Any] = np.array(normal(200, 33), order=order)
    blocks = quantize(weight, scheme)
    error = squared_error(weight, blocks)
    assert error.noise == pytest.approx(np.square(weight - blocks.dequantize(), dtype=float).sum(), rel=1e-6)
    assert error.signal == pytest.approx(np.square(weight, dtype=float).sum(), rel=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("shape", [(200, 33), (70, 1)])
def test_errors_are_known_without_another_look(scheme: Scheme, shape: tuple[int, int]) -> None:
    weight = normal(*shape) * np.float32(1e-3)
    blocks, error = quantize_measured(weight, scheme)
    again = squared_error(weight, blocks)
    assert (error.noise, error.signal) == pytest.approx((again.noise, again.signal), rel=1e-5)


@pytest.mark.parametrize("scheme", [SCHEMES[0], Scheme(3, 16), Scheme(2, (32, 2), signed_scales=True)], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_counted_blocks_lose_what_single_ones_do(scheme: Scheme, weighted: bool) -> None:
    rng = np.random.default_rng(1)
    no_clip = (rng.standard_t(5, (300, 40)) * rng.uniform(1e-6, 1e6, 40)).astype(np.float32)
    no_clip = no_clip if scheme.mirrors else np.abs(no_clip)
    weight = rng.uniform(0, 1, (300, 1)).astype(np.float32) if weighted else None
    no_clip[:, 3] = 0
    anchor = two_level._anchor(no_clip, scheme)
    summed, counted = (by(scheme, no_clip, anchor, weight) for by in (two_level._summed, two_level._counted))
    found = counted * np.square(anchor, dtype=float) / 2**16 / (2**8 if weighted else 1)
    np.testing.assert_allclose(found[:, anchor > 0], summed[:, anchor > 0], rtol=0.05)  # sizes count in 32nds of a step
    few = two_level._counted(scheme, no_clip[:, :7], anchor[:7], weight)
    np.testing.assert_array_equal(few, counted[:, :7])  # to the last bit, whatever stands beside


@pytest.mark.parametrize(
    ("bits", "block", "least"), [(4, 32, 21.18), (4, 128, 20.05), (4, 16, 21.98), (3, 32, 15.5), (2, 32, 9.42)]
)
def test_few_trials_find_what_many_did(bits: int, block: int, least: float) -> None:
    """The floors are what a search of every column scale with every multiplier near it finds, less 0.03 dB."""
    weight = np.random.default_rng(0).standard_normal((4096, 128), dtype=np.float32)
    assert sqnr_db(weight, quantize(weight, Scheme(bits, block, signed_scales=True)).dequantize()) > least


def test_a_job_can_be_sent_anywhere(tmp_path: Path) -> None:
    weight, moments = normal(64, 9), Moments.of(normal(200, 64))
    (tmp_path / "data").write_bytes(b"12345678" + weight.tobytes())
    stored = Stored(tmp_path / "data", 8, weight.dtype, weight.shape)
    for how in ({}, {"rows": slice(32, 64)}, {"solver": "refined", "moments": (moments,), "damping": 0.1}):
        here = jobs.run(jobs.Job(weight, Scheme(4, 32), **how))
        there = pickle.loads(pickle.dumps(jobs.run(pickle.loads(pickle.dumps(jobs.Job(stored, Scheme(4, 32), **how))))))
        np.testing.assert_array_equal(here.blocks.codes, there.blocks.codes)
        assert here.error == there.error


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"transposed": True},
        {"transposed": True, "rows": slice(3, 90)},
        {"scheme": Scheme(4, 32, symmetric=False)},
        {"scheme": Scheme(2, (16, 8))},
        {"importance": np.arange(1.0, 101.0)},
        {"packed": 0, "values": normal(100, 102)},
        {"packed": 0},
        {"packed": 8, "transposed": True, "values": normal(101, 100)},
        {"packed": 8, "transposed": True, "scheme": Scheme(4, 32, symmetric=False), "values": normal(101, 100)},
    ],
    ids=str,
)
def test_parts_of_a_job_give_the_whole(how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PART_VALUES", 2500)
    job = jobs.Job(**{"values": normal(100, 101), "scheme": Scheme(4, 32), **how})
    parts = jobs.split(job)
    assert len(parts) > 2 and all(one.shape == job.shape for one in parts)
    whole, made = jobs.run(job), jobs.joined(job, map(jobs.run, parts))
    for name in ("codes", "multipliers", "scale", "zero_points"):
        want, got = getattr(whole.blocks, name), getattr(made.blocks, name)
        np.testing.assert_array_equal(got, want)
        assert got is None or (got.dtype, got.strides) == (want.dtype, want.strides)
    assert made.blocks.shape == whole.blocks.shape and made.blocks.packed == whole.blocks.packed
    np.testing.assert_allclose(dataclasses.astuple(made.error), dataclasses.astuple(whole.error), rtol=1e-6)


@pytest.mark.parametrize(
    "how",
    [
        {"solver": "refined", "moments": (Moments.of(np.eye(100, dtype=np.float32)),)},
        {"scheme": Scheme(8, 32)},
        {"scheme": Scheme(4, 32, scale="float16")},
        {"values": normal(100, 20)},
        {"values": np.empty((0, 20), np.float32)},
    ],
    ids=str,
)
def test_what_depends_on_all_columns_or_is_small_stays_whole(
    how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PART_VALUES", 2500)
    job = jobs.Job(**{"values": normal(100, 101), "scheme": Scheme(4, 32), **how})
    assert jobs.split(job) == [job]
    if job.shape[0]:
        result = jobs.run(job)
        assert jobs.joined(job, [result]) is result


def test_a_weight_that_is_gone_is_an_error_of_the_input(tmp_path: Path) -> None:
    gone = Stored(tmp_path / "gone", 0, np.dtype(np.float32), (4, 4))
    with pytest.raises(InputModelError, match="could not be read"):
        jobs.run(jobs.Job(gone, Scheme(4, 4)))
