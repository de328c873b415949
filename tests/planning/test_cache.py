"""What is kept between runs: found again, ignored when damaged, and named by all that it depends on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from bct_onnx.errors import UsageError
from bct_onnx.planning import cache
from tests.planning import small


def test_an_entry_is_found_again(tmp_path: Path) -> None:
    entry = cache.Entry(tmp_path / "new", "a")
    assert entry.content == {}
    entry.content["items"] = [1, 2]
    entry.write()
    assert cache.Entry(tmp_path / "new", "a").content == {"items": [1, 2]}
    assert cache.Entry(tmp_path / "new", "b").content == {}
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["plan-a.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"a": '])
def test_a_damaged_entry_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "plan-a.json").write_bytes(content)
    entry = cache.Entry(tmp_path, "a")
    assert entry.content == {}
    entry.content["x"] = 1
    entry.write()
    assert json.loads((tmp_path / "plan-a.json").read_text()) == {"x": 1}


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    entry = cache.Entry(tmp_path / "file", "a")
    entry.content["x"] = 1
    entry.write()
    assert (tmp_path / "file").read_text() == ""


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    cache.Entry(None, "a").write()
    assert list(tmp_path.iterdir()) == []


def test_the_key_names_model_pipeline_data_and_settings(tmp_path: Path) -> None:
    model, data = small.write(tmp_path), small.tokens(tmp_path)
    passes = small.pipeline(small.PIPELINE.replace("samples", f'data="{data}" samples'))
    keys = [
        cache.key(model, passes, True),
        cache.key(model, passes, False),
        cache.key(model, small.pipeline(), True),
        cache.key(model, small.pipeline(str(passes).replace("solver=gptq", "bits=3")), True),
    ]
    small.tokens(tmp_path, rows=41)
    keys.append(cache.key(model, passes, True))
    changed = small.model()
    changed.graph.name = "other"
    onnx.save(ir.to_proto(changed), model)
    keys.append(cache.key(model, passes, True))
    assert len(set(keys)) == len(keys)
    assert cache.key(model, passes, True) == keys[-1]


def test_data_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    passes = small.pipeline(f"calibrate{{data={tmp_path / 'none.npz'}}},quantize-weights")
    with pytest.raises(UsageError, match=r"none\.npz"):
        cache.key(small.write(tmp_path), passes)


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
