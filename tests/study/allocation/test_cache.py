"""What is kept between runs: found again, ignored when damaged, and named by all that it depends on."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from bct_onnx.course import Course
from bct_onnx.errors import UsageError
from bct_onnx.pipeline import Pipeline
from bct_onnx.study.allocation import NoiseTable, Option, TensorOptions, cache
from tests.study.allocation import small

TENSOR = TensorOptions("w", "quantize-weights", (10, 100), (Option(2000, 4.0, ("2/32",)),))
TABLE = NoiseTable((TENSOR,), 500, 1000, "KL", "random tokens")


def key(model: Path, passes: Pipeline, *settings: object) -> str:
    return cache.key(Course(tuple(passes), len(passes), 0, model), *settings)


def test_an_entry_is_found_again(tmp_path: Path) -> None:
    file = tmp_path / "new" / "noise-a.json"
    entry = cache.Entry(file)
    assert entry.known() == {} and entry.table() is None
    entry.write([TENSOR])
    assert cache.Entry(file).known() == {"w": TENSOR} and cache.Entry(file).table() is None
    entry.write([TENSOR], TABLE)
    assert cache.Entry(file).known() == {"w": TENSOR} and cache.Entry(file).table() == TABLE
    assert cache.Entry(tmp_path / "new" / "noise-b.json").known() == {}
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"a": ', b'{"tensors": 3}', b'{"tensors": [3]}'])
def test_a_damaged_entry_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "noise-a.json").write_bytes(content)
    entry = cache.Entry(tmp_path / "noise-a.json")
    assert entry.known() == {} and entry.table() is None
    entry.write([TENSOR])
    assert cache.Entry(tmp_path / "noise-a.json").known() == {"w": TENSOR}


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache.Entry(tmp_path / "file" / "noise-a.json").write([TENSOR])
    assert (tmp_path / "file").read_text() == ""


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    cache.Entry(None).write([TENSOR])
    assert cache.Entry.of(Course(source=tmp_path / "m.onnx"), 1).known() == {}
    assert cache.Entry.of(Course(cache=tmp_path), 1).known() == {}
    assert list(tmp_path.iterdir()) == []


def test_the_key_names_model_pipeline_data_and_settings(tmp_path: Path) -> None:
    model, data = small.write(tmp_path), small.tokens(tmp_path)
    passes = small.pipeline(small.PIPELINE.replace("samples", f'data="{data}" samples'))
    keys = [
        key(model, passes, True),
        key(model, passes, False),
        key(model, small.pipeline(), True),
        key(model, small.pipeline(str(passes).replace("solver=gptq", "bits=3")), True),
    ]
    small.tokens(tmp_path, rows=41)
    keys.append(key(model, passes, True))
    changed = small.model()
    changed.graph.name = "other"
    onnx.save(ir.to_proto(changed), model)
    keys.append(key(model, passes, True))
    assert len(set(keys)) == len(keys)
    assert key(model, passes, True) == keys[-1]


def test_data_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    passes = small.pipeline(f"calibrate{{data={tmp_path / 'none.npz'}}},quantize-weights")
    with pytest.raises(UsageError, match=r"none\.npz"):
        key(small.write(tmp_path), passes)


@pytest.mark.parametrize(
    ("platform", "variable", "end"),
    [
        ("linux", "XDG_CACHE_HOME", "bct-onnx"),
        ("win32", "LOCALAPPDATA", "bct-onnx/Cache"),
        ("darwin", None, "Library/Caches/bct-onnx"),
    ],
)
def test_the_folder_is_the_system_s(
    platform: str, variable: str | None, end: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    if variable is not None:
        monkeypatch.setenv(variable, str(tmp_path))
    assert cache.default_folder() == tmp_path / end
