"""The ways to be wrong that users have found: an exit code, a message that says what to do, and nothing left behind."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bct_onnx import cli
from bct_onnx.rewriting import Options, rewrite
from tests.graph import handmade

WEIGHT = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
TEXT = """<ir_version: 10, opset_import: ["" : {opset}]>
    net (float[batch, 64] x) => (float[batch, 32] y) {{ y = MatMul (x, w) }}"""
RUN = ("rewrite", "m.onnx", "-o", "out.onnx")


def proto(opset: int = 21, **arrays: np.ndarray[Any, Any]) -> onnx.ModelProto:
    return handmade.model(TEXT.format(opset=opset), **({"w": WEIGHT} | arrays))


def sound() -> Path:
    """A model with which nothing is wrong."""
    return handmade.write(proto(), Path("m.onnx"))


@dataclasses.dataclass(frozen=True)
class Bad:
    """One wrong use: what lies in the folder, the command line, how it ends, and what the message has to say."""

    title: str
    code: int
    said: tuple[str, ...]
    arguments: tuple[str, ...] = RUN
    prepare: Callable[[], object] = sound

    def __str__(self) -> str:
        return self.title


def bytes_of(data: bytes) -> Callable[[], object]:
    return lambda: Path("m.onnx").write_bytes(data)


def external(**entries: str | int) -> Callable[[], object]:
    return lambda: handmade.external(Path("m.onnx"), **entries)


def without_data() -> None:
    handmade.external(Path("m.onnx"))
    Path("w.bin").unlink()


def graph(body: str, opset: int = 21) -> Callable[[], object]:
    text = (
        f'<ir_version: 10, opset_import: ["" : {opset}]> net (float[batch, 64] x) => (float[batch, 32] y) {{ {body} }}'
    )
    return lambda: handmade.write(handmade.model(text, w=WEIGHT), Path("m.onnx"))


def empty_graph() -> None:
    made = proto()
    del made.graph.node[:], made.graph.initializer[:]
    handmade.write(made, Path("m.onnx"))


def cycle() -> None:
    made = proto()
    made.graph.node[0].input[0] = "b"
    made.graph.node.append(onnx.helper.make_node("Transpose", ["y"], ["b"]))
    handmade.write(made, Path("m.onnx"))


def wrong_types() -> None:
    made = proto()
    made.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    handmade.write(made, Path("m.onnx"))


def weight_of(value: float) -> Callable[[], object]:
    weight = WEIGHT.copy()
    weight[3, 4] = value
    return lambda: handmade.write(proto(w=weight), Path("m.onnx"))


def quantized() -> None:
    sound()
    rewrite(Path("m.onnx"), options=Options(Path("q.onnx"), check=False))
    Path("q.onnx").replace("m.onnx")


def recipe(text: str) -> Callable[[], object]:
    def prepare() -> None:
        sound()
        Path("r.toml").write_text(text, encoding="utf-8")

    return prepare


def existing_output() -> None:
    sound()
    Path("out.onnx").write_bytes(b"something else")


def checkpoint() -> None:
    Path("m.onnx").mkdir()
    Path("m.onnx/model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")


def empty_data() -> None:
    sound()
    Path("e.csv").write_text("", encoding="utf-8")


def output_folder() -> None:
    sound()
    Path("out.onnx").mkdir()


def passes(text: str) -> tuple[str, ...]:
    return (*RUN, "--passes", text)


RECIPE = (*RUN, "--recipe", "r.toml")
CASES = (
    Bad("missing file", 3, ("cannot be found", "check the path"), prepare=lambda: None),
    Bad("misspelled file", 3, ("cannot be found", "did you mean 'm.onnx'?"), ("rewrite", "mm.onnx", "-o", "out.onnx")),
    Bad("misspelled folder", 3, ("there is no folder",), ("rewrite", "models/m.onnx", "-o", "out.onnx")),
    Bad("misspelled data", 2, ("No such file", "did you mean 'e.csv'?"), (*RUN, "--calibrate", "ee.csv"), empty_data),
    Bad("directory", 3, ("the folder has no model", "give the folder"), prepare=lambda: Path("m.onnx").mkdir()),
    Bad(
        "weights of a checkpoint",
        3,
        ("without a graph", "bct-onnx export "),
        ("rewrite", "m.onnx/model.safetensors", "-o", "out.onnx"),
        checkpoint,
    ),
    Bad(
        "id on the hub",
        3,
        ("bct-onnx export sentence-transformers/all-MiniLM-L6-v2 -o model.onnx",),
        ("rewrite", "sentence-transformers/all-MiniLM-L6-v2", "-o", "out.onnx"),
    ),
    Bad("empty file", 3, ("the file is empty",), prepare=bytes_of(b"")),
    Bad("a text", 3, ("not a readable ONNX model",), prepare=bytes_of(b"hello, world\n" * 10)),
    Bad("a web page", 3, ("web page", "download"), prepare=bytes_of(b"<!DOCTYPE html><html></html>")),
    Bad("Git LFS pointer", 3, ("git lfs pull",), prepare=bytes_of(b"version https://git-lfs.github.com/spec/v1\n")),
    Bad("truncated", 3, ("cut off",), prepare=lambda: Path("m.onnx").write_bytes(proto().SerializeToString()[:-900])),
    Bad("missing external data", 3, ("external data file is missing", "w.bin"), prepare=without_data),
    Bad("external data cut off", 3, ("external data is cut off",), prepare=external(offset=90)),
    Bad("path escape", 3, ("outside its folder",), prepare=external(location="../../etc/passwd")),
    Bad("absolute path", 3, ("outside its folder",), prepare=external(location="/etc/passwd")),
    Bad("cyclic graph", 3, ("has a cycle",), prepare=cycle),
    Bad("empty graph", 3, ("m.onnx",), prepare=empty_graph),
    Bad("undefined value", 3, ("nowhere",), prepare=graph("y = MatMul (nowhere, w)")),
    Bad("unknown operator", 3, ("cannot load the input model", "MutMal"), prepare=graph("y = MutMal (x, w)")),
    Bad("wrong types", 3, ("cannot load the input model",), prepare=wrong_types),
    Bad("opset too old", 3, ("opset",), prepare=graph("y = Add (x, x)", 5)),
    Bad("opset too new", 3, ("opset",), prepare=graph("y = MatMul (x, w)", 99)),
    Bad("NaN in a weight", 3, ("NaN",), prepare=weight_of(float("nan"))),
    Bad("infinity in a weight", 3, ("Inf",), prepare=weight_of(float("inf"))),
    Bad("already quantized", 3, ("already quantized", "float export"), prepare=quantized),
    Bad("unknown preset", 2, ("unknown preset", "did you mean 'w4a8'?"), (*RUN, "--preset", "w4a9")),
    Bad("unknown pass", 2, ("did you mean 'fuse-gelu'?", "    fuse-gleu\n    ^"), passes("fuse-gleu")),
    Bad("unknown option", 2, ("did you mean 'bits'?",), passes("quantize-weights{bist=4}")),
    Bad("bad value", 2, ("'four' is no value", " " * 26 + "^"), passes("quantize-weights{bits=four}")),
    Bad("value out of range", 2, ("bits=7", "^"), passes("fuse-gelu,quantize-weights{bits=7}")),
    Bad("no pipeline", 2, ("expected the name of a pass",), passes(" ")),
    Bad("unknown target", 2, ("unknown target", "did you mean 'ort-cpu'?"), (*RUN, "--target", "ort-gpu")),
    Bad("preset and passes", 2, ("--preset and --passes",), (*RUN, "--preset", "w4a8", "--passes", "fuse-gelu")),
    Bad("recipe and passes", 2, ("--passes and --recipe",), (*RUN, "--passes", "fuse-gelu", "--recipe", "r.toml")),
    Bad(
        "preset and a recipe with one",
        2,
        ("--preset and this recipe", "leave out --preset"),
        (*RUN, "--preset", "w4a8", "--recipe", "r.toml"),
        recipe('preset = "fast"'),
    ),
    Bad("missing recipe", 2, ("the recipe cannot be read", "r.toml"), RECIPE),
    Bad("recipe that is no TOML", 2, ("the recipe cannot be read",), RECIPE, recipe("preset = w4a8")),
    Bad("unknown key", 2, ("unknown key 'prest'", "did you mean 'preset'?"), RECIPE, recipe('prest = "w4a8"')),
    Bad("unknown recipe preset", 2, ("did you mean 'w4a8'?",), RECIPE, recipe('preset = "w4a9"')),
    Bad("unknown recipe target", 2, ("unknown target",), RECIPE, recipe('target = "gpu"')),
    Bad("target of a wrong type", 2, ("unknown target '4'",), RECIPE, recipe("target = 4")),
    Bad("preset of a wrong type", 2, ("unknown preset '4'",), RECIPE, recipe("preset = 4")),
    Bad("options of another pass", 2, ("quantize-wieghts",), RECIPE, recipe("[options.quantize-wieghts]\nbits = 4")),
    Bad("unknown recipe option", 2, ("did you mean 'bits'?",), RECIPE, recipe("[options.quantize-weights]\nbist = 4")),
    Bad("recipe option of a wrong type", 2, ("bits",), RECIPE, recipe('[options.quantize-weights]\nbits = "x"')),
    Bad("options that are no table", 2, ("write [options.PASS]",), RECIPE, recipe("options = 4")),
    Bad("no output", 2, ("no output was given", "--dry-run"), ("rewrite", "m.onnx")),
    Bad("output exists", 2, ("the output exists", "--force"), prepare=existing_output),
    Bad("output is a folder", 2, ("the output is not a file",), prepare=output_folder),
    Bad("output folder missing", 2, ("does not exist", "mkdir"), ("rewrite", "m.onnx", "-o", "no/where/out.onnx")),
    Bad("output is the input", 2, ("never modified",), ("rewrite", "m.onnx", "-o", "m.onnx", "--force")),
    Bad("name too long", 2, ("cannot be written there",), ("rewrite", "m.onnx", "-o", "x" * 300 + ".onnx")),
    Bad("nothing to do", 1, ("nothing was changed",), (*passes("fuse-gelu"), "--target", "portable")),
    Bad("keep-passes on a file", 2, ("the folder for passes exists",), (*RUN, "--keep-passes", "m.onnx")),
    Bad("keep-passes nowhere", 2, ("no parent folder",), (*RUN, "--keep-passes", "no/where")),
)  # fmt: skip


@pytest.mark.parametrize("bad", CASES, ids=str)
def test_bad_input(
    bad: Bad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    bad.prepare()
    capsys.readouterr()
    before = contents(tmp_path)
    code = cli.main(bad.arguments)
    printed = capsys.readouterr()
    assert code == bad.code, printed.err
    for words in bad.said:
        assert words in printed.err
    assert printed.err.startswith("error: ") and "Traceback" not in printed.err and printed.out == ""
    assert contents(tmp_path) == before


def test_a_folder_of_a_checkpoint_where_nothing_can_export_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)  # makes the import fail as if it were not installed
    checkpoint()
    before = contents(tmp_path)
    assert cli.main(RUN) == 2
    printed = capsys.readouterr()
    assert "torch" in printed.err and "pip install 'bct-onnx[export]'" in printed.err and printed.out == ""
    assert contents(tmp_path) == before


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``, and every folder, also empty ones."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def test_a_folder_that_may_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sound()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode))
    assert cli.main(RUN) == 2
    assert "the output folder is not writable" in capsys.readouterr().err
    assert list(contents(tmp_path)) == ["m.onnx"]
