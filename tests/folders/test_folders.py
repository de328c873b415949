"""A folder in, a folder out: clients find models where they look, and everything else is as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from bct_onnx import registry
from bct_onnx.cli import folder
from bct_onnx.cli.rewrite import Writing
from bct_onnx.errors import BctError, InputModelError, UsageError
from bct_onnx.exporting import Recipe, export
from bct_onnx.folders import read, rewrite_folder
from bct_onnx.folders.reading import CARD, RECORD
from bct_onnx.report import Report
from bct_onnx.rewriting import Options, rewrite

WEIGHTS = "normalize,quantize-weights,clean-up"
CODES = "normalize,quantize-weights,quantize-activations,clean-up"


def compress(
    pipeline: str = WEIGHTS, target: str = "ort-cpu", *, check: bool = False
) -> Callable[[Path, Path], Report]:
    """A function that rewrites a file into another."""

    def run(source: Path, output: Path) -> Report:
        return rewrite(source, pipeline, target=target, options=Options(output, check=check))

    return run


def write_model(path: Path, *, external: bool = False) -> None:
    """A product of a text's vectors with a weight."""
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    vectors = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 64])
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 64])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", [vectors], [result], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}_data", size_threshold=0)


@pytest.fixture
def browser(tmp_path: Path) -> Path:
    """A folder as it is published for transformers.js, with what else is found in such folders."""
    folder = tmp_path / "source"
    write_model(folder / "onnx" / "model.onnx", external=True)
    write_model(folder / "onnx" / "model_quantized.onnx")
    write_model(folder / "onnx" / "model_qint8_avx512.onnx")
    (folder / "config.json").write_text(json.dumps({"architectures": ["BertForSequenceClassification"]}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_text("")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n\nWhat it is.\n")
    return folder


def test_models_are_told_from_variants_data_and_other_weights(browser: Path) -> None:
    found = read(browser)
    assert found.layout == "transformers.js"
    assert found.models == (Path("onnx/model.onnx"),)
    assert found.files == (Path("config.json"), Path("tokenizer.json"))
    assert found.left[Path("onnx/model.onnx_data")] == "weights of a model in ONNX"
    assert found.left[Path("onnx/model_quantized.onnx")] == "made of another model in the folder"
    assert found.left[Path("model.safetensors")] == "the weights for another framework"


@pytest.mark.parametrize(
    ("layout", "pipeline", "place"),
    [
        ("", WEIGHTS, "onnx/model_q4.onnx"),
        ("", CODES, "onnx/model_quantized.onnx"),
        ("optimum", CODES, "model.onnx"),
    ],
)
def test_the_result_is_where_its_client_looks(
    browser: Path, tmp_path: Path, layout: str, pipeline: str, place: str
) -> None:
    done = rewrite_folder(browser, tmp_path / "out", compress(pipeline), layout=layout)
    assert list(done.reports) == [Path(place)]
    out = tmp_path / "out"
    assert done.reports[Path(place)].files == (out / place,)
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == sorted([CARD, RECORD, "config.json", "tokenizer.json", place])
    x = np.random.default_rng(1).standard_normal((2, 64)).astype(np.float32)
    before = ort.InferenceSession(browser / "onnx" / "model.onnx").run(None, {"x": x})[0]
    after = ort.InferenceSession(out / place).run(None, {"x": x})[0]
    assert 0 < np.linalg.norm(after - before) < 0.2 * np.linalg.norm(before)


def test_the_card_keeps_the_front_matter_and_says_how_to_load(browser: Path, tmp_path: Path) -> None:
    rewrite_folder(browser, tmp_path / "small", compress(CODES))
    text = (tmp_path / "small" / CARD).read_text()
    assert text.startswith("---\nlicense: mit\n---\n# small\n")
    assert 'pipeline("text-classification", "small", { dtype: "q8" })' in text
    assert "| onnx/model_quantized.onnx |" in text
    assert text.rstrip().endswith("What it is.")
    assert "weights for other frameworks (.safetensors) were left out" in text
    assert json.loads((tmp_path / "small" / RECORD).read_text())["layout"] == "transformers.js"


def test_the_card_names_what_was_compared_and_no_place_of_this_machine(browser: Path, tmp_path: Path) -> None:
    data = browser / "texts.npz"
    np.savez(data, x=np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32))
    own = f"normalize,calibrate{{data={data}}},quantize-weights,clean-up"
    report = rewrite_folder(browser, tmp_path / "small", compress(own, check=True)).reports.popitem()[1]
    text = (tmp_path / "small" / CARD).read_text()
    assert report.parity is not None and f"on {report.parity.samples} samples ({report.parity.source})" in text
    assert "data=SOURCE/texts.npz" in text and str(tmp_path) not in text


def test_nothing_is_written_where_a_model_fails(browser: Path, tmp_path: Path) -> None:
    def fail(source: Path, output: Path) -> Report:
        raise BctError("no")

    with pytest.raises(BctError, match="no"):
        rewrite_folder(browser, tmp_path / "out", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_only_folders_of_ones_own_are_replaced(browser: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rewrite_folder(browser, out, compress())
    with pytest.raises(UsageError, match="the output exists"):
        rewrite_folder(browser, out, compress())
    (out / "stale").write_text("")
    rewrite_folder(browser, out, compress(), force=True)
    assert not (out / "stale").exists()
    (out / RECORD).unlink()
    with pytest.raises(UsageError, match="not empty"):
        rewrite_folder(browser, out, compress(), force=True)
    with pytest.raises(UsageError, match="inside of it"):
        rewrite_folder(browser, browser / "small", compress(), force=True)


def test_external_data_get_the_clients_name(browser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bct_onnx.graph.save.EMBEDDED", 100)
    done = rewrite_folder(browser, tmp_path / "out", compress(CODES))
    (report,) = done.reports.values()
    assert [file.name for file in report.files] == ["model_quantized.onnx", "model_quantized.onnx_data"]
    assert all(file.is_file() for file in report.files)
    ort.InferenceSession(report.files[0])


def test_links_of_a_cache_are_followed(browser: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "config.json").symlink_to(browser / "config.json")
    shutil.copytree(browser / "onnx", snapshot / "onnx")
    rewrite_folder(snapshot, tmp_path / "out", compress())
    assert not (tmp_path / "out" / "config.json").is_symlink()


def test_sentence_transformers_needs_its_modules(browser: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sentence-transformers"):
        rewrite_folder(browser, tmp_path / "out", compress(), layout="sentence-transformers")
    (browser / "modules.json").write_text("[]")
    (browser / "1_Pooling").mkdir()
    (browser / "1_Pooling" / "config.json").write_text("{}")
    done = rewrite_folder(browser, tmp_path / "out", compress())
    assert done.layout == "sentence-transformers"
    assert list(done.reports) == [Path("onnx/model.onnx")]
    assert Path("1_Pooling/config.json") in done.copied


def test_a_decoder_for_genai_gets_its_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    write_model(folder / "model.onnx")
    config = {"n_embd": 64, "n_head": 4, "n_layer": 1, "n_positions": 128, "vocab_size": 100, "eos_token_id": 3}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(UsageError, match="genai"):
        rewrite_folder(folder, tmp_path / "out", compress(), layout="genai")
    model = onnx.load(folder / "model.onnx")
    for name in ("key", "value"):
        shape: list[str | int] = ["batch", 4, "past", 16]
        model.graph.input.append(helper.make_tensor_value_info(f"past_key_values.0.{name}", 1, shape))
        model.graph.output.append(helper.make_tensor_value_info(f"present.0.{name}", 1, shape))
        model.graph.node.append(helper.make_node("Identity", [f"past_key_values.0.{name}"], [f"present.0.{name}"]))
    onnx.save(model, folder / "model.onnx")
    rewrite_folder(folder, tmp_path / "out", compress(), layout="genai")
    about = json.loads((tmp_path / "out" / "genai_config.json").read_text())["model"]
    assert (about["type"], about["context_length"], about["eos_token_id"]) == ("decoder", 128, 3)
    decoder = about["decoder"]
    assert (decoder["filename"], decoder["head_size"], decoder["num_key_value_heads"]) == ("model.onnx", 16, 4)
    assert decoder["inputs"]["past_key_names"] == "past_key_values.%d.key"
    assert decoder["outputs"] == {
        "y": "y",
        "present_key_names": "present.%d.key",
        "present_value_names": "present.%d.value",
    }


@pytest.mark.export
@pytest.mark.whole
def test_a_checkpoint_is_exported_on_the_way(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.BertModel(transformers.BertConfig(intermediate_size=64, **sizes))
    model.save_pretrained(tmp_path / "source")
    (tmp_path / "source" / "modules.json").write_text("[]")
    done = rewrite_folder(tmp_path / "source", tmp_path / "out", compress(CODES))
    assert list(done.reports) == [Path("onnx/model.onnx")]
    assert not list((tmp_path / "out").rglob("*.safetensors"))
    session = ort.InferenceSession(tmp_path / "out" / "onnx" / "model.onnx")
    assert [value.name for value in session.get_inputs()][:2] == ["input_ids", "attention_mask"]


@pytest.mark.export
@pytest.mark.whole
def test_an_encoder_decoder_is_exported_in_parts(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    optimum = pytest.importorskip("optimum.onnxruntime")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
    config = transformers.T5Config(**sizes, decoder_start_token_id=0, tie_word_embeddings=False)
    model = transformers.T5ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path / "source")
    done = rewrite_folder(tmp_path / "source", tmp_path / "out", compress("normalize,clean-up"))
    assert list(done.reports) == [Path("encoder_model.onnx"), Path("decoder_model_merged.onnx")]
    loaded = optimum.ORTModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    text = {"input_ids": torch.randint(2, 60, (3, 9)), "attention_mask": torch.ones(3, 9, dtype=torch.long)}
    text["attention_mask"][1, 5:] = 0
    tokens = model.generate(**text, max_new_tokens=12)
    assert len(set(tokens.flatten().tolist())) > 5, "tokens that differ, so that there is something to compare"
    assert loaded.generate(**text, max_new_tokens=12).tolist() == tokens.tolist()
    assert "model.generate(" in (tmp_path / "out" / CARD).read_text()


@pytest.mark.export
@pytest.mark.whole
def test_what_hears_is_exported_in_parts(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 60, "d_model": 32, "num_mel_bins": 16}
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_layers": 1, f"{side}_attention_heads": 2, f"{side}_ffn_dim": 64}
    config = transformers.WhisperConfig(**sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    transformers.WhisperForConditionalGeneration(config).save_pretrained(tmp_path / "source")
    with pytest.raises(UsageError, match="more than one file"):
        export(tmp_path / "source", tmp_path / "model.onnx", Recipe(cache=True))
    done = rewrite_folder(tmp_path / "source", tmp_path / "out", compress(CODES), layout="transformers.js")
    names = ("encoder_model_quantized.onnx", "decoder_model_merged_quantized.onnx")
    assert list(done.reports) == [Path("onnx") / name for name in names]
    assert 'pipeline("automatic-speech-recognition"' in (tmp_path / "out" / CARD).read_text()


def test_a_folder_without_a_model_is_refused_and_a_checkpoint_is_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputModelError, match="no model"):
        read(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert read(tmp_path).is_checkpoint
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputModelError, match="configuration"):
        read(tmp_path)


def test_padding_goes_where_the_client_pools_by_the_mask(tmp_path: Path) -> None:
    write_model(tmp_path / "model.onnx")
    modules = [{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Pooling"}]
    lifted = registry.parse("lift")

    def names(layout: str | None = None, target: str = "ort-cpu", is_own: bool = False) -> list[str]:
        fitted = folder.fitted(lifted, tmp_path, Writing(layout=layout), target, is_own=is_own)
        return [graph_pass.name for graph_pass in fitted if graph_pass not in lifted]

    assert names() == [], "nothing says how its results are read"
    (tmp_path / "modules.json").write_text(json.dumps(modules[:1]))
    assert names() == [], "results of tokens may be what is wanted"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert names() == ["remove-padding"]
    assert names(layout="optimum") == []
    assert names(target="portable") == [], "nothing takes padding away there"
    assert names(is_own=True) == [], "who names passes gets these"
