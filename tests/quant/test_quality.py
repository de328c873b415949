"""What the formats promise on weights of known distribution and on trained ones, and what they may cost in memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from bct_onnx.quant import Scheme, SizeSummary, quantize, sqnr_db, stored_bits
from bct_onnx.quant.table import Row, gaussian, main, rows, student_t
from tests.quant.strategies import Matrix


def _db(weights: list[Matrix], scheme: Scheme) -> float:
    return rows(weights, [scheme])[0].sqnr_db


@pytest.mark.parametrize("weight", [gaussian(512, 128), student_t(512, 128)])
def test_formats_rank_as_they_should(weight: Matrix) -> None:
    two_level = _db([weight], Scheme(4, 32))
    assert two_level > _db([weight], Scheme(4, 32, search="max")) + 0.5
    assert two_level > _db([weight], Scheme(4, 32, scale="shift")) + 1.0
    assert two_level > _db([weight], Scheme(4, 32, scale="float16")) - 0.6
    assert two_level > _db([weight], Scheme(4, 32, reduce_range=False)) - 0.35
    assert _db([weight], Scheme(4, 32, signed_scales=True)) > two_level + 0.3
    assert _db([weight], Scheme(2, 32, signed_scales=True)) > _db([weight], Scheme(2, 32)) + 0.7
    by_max, by_error = (_db([weight], Scheme(4, (64, 64), scale="shift", search=how)) for how in ("max", "mse"))
    assert by_error > by_max + 3.0


def test_table_has_a_row_per_format() -> None:
    found = rows([gaussian(64, 8), student_t(32, 8)])
    assert len({str(row.scheme) for row in found}) == len(found)
    assert all(isinstance(row, Row) and row.sqnr_db > 5 for row in found)
    assert found[0].bits_per_weight == 8 + 16 * (8 + 8) / (64 * 8 + 32 * 8)


def test_table_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "weights.npz"
    np.savez(file, matrix=gaussian(64, 8), vector=np.ones(8, np.float32))
    main([str(file)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(str(file))
    assert lines[1:] == [str(row) for row in rows([gaussian(64, 8)])]


def test_memory_stays_flat_for_a_mapped_weight(tmp_path: Path) -> None:
    np.save(tmp_path / "weight.npy", gaussian(2048, 4096))
    weight = np.load(tmp_path / "weight.npy", mmap_mode="r")
    quantize(weight[:, :8], Scheme(4, 32))
    tracemalloc.start()
    blocks = quantize(weight, Scheme(4, 32, search="max"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - blocks.codes.nbytes < 64 << 20


def test_sqnr() -> None:
    assert sqnr_db([1.0, -2.0], [1.0, -2.0]) == float("inf")
    assert sqnr_db([0.0], [1.0]) == float("-inf")
    assert sqnr_db(np.ones(4, np.float16), np.full(4, 1.1)) == pytest.approx(20.0)


def test_sizes() -> None:
    assert stored_bits(np.float32, 5) == 160
    summary = SizeSummary(parameters=100, stored_parameter_bytes=50, file_bytes_in=410, file_bytes_out=82)
    assert (summary.ratio_parameters, summary.ratio_file, summary.bits_per_weight) == (8.0, 5.0, 4.0)


@pytest.mark.real
@pytest.mark.parametrize(
    ("scheme", "least"),
    [
        (Scheme(4, 32, scale="float16"), 20.8),
        (Scheme(4, 32), 20.4),
        (Scheme(4, 32, signed_scales=True), 20.8),
        (Scheme(4, 64), 19.6),
        (Scheme(4, (64, 64), scale="shift", search="max"), 9.5),
        (Scheme(4, (64, 64), scale="shift"), 14.9),
        (Scheme(2, 32, signed_scales=True), 9.2),
    ],
)
def test_trained_weights(real_dir: Path, scheme: Scheme, least: float) -> None:
    """Encoder matrices of a trained MiniLM; the floors are what was measured, less 0.1 dB at most."""
    assert _db(_encoder_matrices(real_dir / "models" / "minilm-sst2" / "model.safetensors"), scheme) > least


def _encoder_matrices(file: Path) -> list[Matrix]:
    """Every float16 matrix of the encoder, [K, N]; the file is a length, a JSON header, and raw little-endian data."""
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    found = []
    for name, entry in header.items():
        if "encoder" in name and len(entry["shape"]) == 2:
            begin, end = (start + offset for offset in entry["data_offsets"])
            found.append(np.frombuffer(data[begin:end], np.dtype("<f2")).reshape(entry["shape"]).T)
    assert len(found) == 36
    return found
