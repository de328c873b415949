import sys
from pathlib import Path

import huggingface_hub
import pytest

from bct_onnx.errors import UsageError
from bct_onnx.tasks.classification import Classification
from bct_onnx.tasks.labelled import LabelledTexts
from bct_onnx.tasks.readers import TEXT_COLUMNS
from bct_onnx.tasks.sources import is_file, open_dataset, open_table, open_tagged, open_text
from tests.tasks.tiny import tokenizer


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    """No network, an own cache, and the folder of the test as the current one."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)


def saved(name: str) -> None:
    import datasets

    """Two splits as `save_to_disk` writes them, the labels as class numbers with names."""
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["negative", "positive"])}
    )
    rows = {"sentence": ["good film", "bad film", "the film"], "label": [1, 0, 1]}
    both = {split: datasets.Dataset.from_dict(rows, features=features) for split in ("train", "validation")}
    datasets.DatasetDict(both).save_to_disk(name)


def test_folder_of_a_saved_data_set(tmp_path: Path) -> None:
    saved("films")
    table = open_table("films:validation", limit=2)
    assert table.names == ("sentence", "label") and table.rows == (("good film", "1"), ("bad film", "0"))
    assert open_table("films/train").path == Path("films/train")
    made = Classification.load(LabelledTexts("films:validation", tokenizer(tmp_path)))
    assert made.labels.tolist() == [1, 0, 1] and made.tokens.ids[1].tolist() == [5, 6]


def test_folder_of_files_and_of_configurations() -> None:
    folder = Path("corpus")
    (folder / "short").mkdir(parents=True)
    (folder / "validation.csv").write_text("text,label\ngood,1\n,0\n")
    assert open_table("corpus:validation").rows == (("good", "1"), ("", "0"))
    (folder / "short" / "test.jsonl").write_text('{"text": "bad film", "label": 0}\n')
    card = "---\nconfigs:\n- config_name: brief\n  data_files:\n  - split: test\n    path: short/test.jsonl\n---\n"
    (folder / "README.md").write_text(card)
    assert open_table("corpus/brief:test").rows == (("bad film", "0"),)
    assert open_text("corpus/brief:test[:1]") == "bad film\n"


def test_tags_get_their_names() -> None:
    import datasets

    kinds = {name: datasets.List(datasets.ClassLabel(names=names)) for name, names in TAGS.items()}
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), **kinds})
    rows = {"tokens": [["Ann", "runs"]], "pos_tags": [[0, 1]], "ner_tags": [[1, 0]]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk("people")
    tagged = open_tagged("people")
    assert (tagged.words, tagged.tags, tagged.names) == ((("Ann", "runs"),), (("1", "0"),), ("O", "B-PER"))
    assert open_tagged("people", tags="pos_tags").names == ("N", "V")


TAGS = {"pos_tags": ["N", "V"], "ner_tags": ["O", "B-PER"]}


def test_no_network() -> None:
    for name in ("glue/sst2:validation", "nothing-of-this-name", "owner/name/configuration:test"):
        with pytest.raises(UsageError, match="cannot load the data") as caught:
            open_table(name)
        assert caught.value.where == name and "Hub" in caught.value.why and "needs network" in caught.value.fix


def test_splits() -> None:
    saved("films")
    with pytest.raises(UsageError, match="name one, as films:validation"):
        open_dataset("films")
    with pytest.raises(UsageError, match="train"):
        open_dataset("films:test")
    assert len(open_dataset("films/train")) == 3


def test_no_rows() -> None:
    import datasets

    datasets.Dataset.from_dict({"text": []}).save_to_disk("empty")
    Path("corpus").mkdir()
    Path("corpus/test.csv").write_text("text,label\n")
    for name in ("empty", "corpus:test"):
        with pytest.raises(UsageError, match=r"cannot load the data|no rows"):
            open_table(name)


def test_package_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match="bct-onnx\\[eval\\]"):
        open_table("glue/sst2:validation")


def test_files_are_files(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("good film")
    assert is_file("README") and is_file("not/there.csv") and not is_file("glue/sst2:validation")
    assert open_text("README") == "good film"
    with pytest.raises(UsageError, match="cannot read the data"):
        open_table("not/there.csv")
    (tmp_path / "lines.tsv").write_text("text\tx\ngood\t1\nfilm\t2\n")
    assert open_text("lines.tsv") == "good\nfilm\n" and open_text("lines.tsv", "x") == "1\n2\n"
    assert open_table("lines.tsv").text_columns(TEXT_COLUMNS) == ("text",)
