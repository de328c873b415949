"""Texts as their models take them: ids of characters, syllables, phonemes and words, bytes of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from models.real_files.pictures import Feeds

_THAI = ("ผม|ชอบ|กิน|ข้าว|กับ|ปลา|ทู", "วัน|นี้|อา|กาศ|ดี|มาก", "เรา|ไป|ตลาด|ตอน|เช้า|เพื่อ|ซื้อ|ผล|ไม้")
_KHMER = ("ខ្ញុំចូលចិត្តរៀនភាសាខ្មែរ", "ប្រទេសកម្ពុជាមានប្រាសាទបុរាណជាច្រើន", "ថ្ងៃនេះអាកាសធាតុល្អណាស់")
_ARABIC = ("محمد", "عبدالرحمن", "فاطمة", "خالد", "ياسمين")
_PHONEMES = ("həlˈoʊ wˈɜːld.", "ðə kwˈɪk bɹˈaʊn fˈɑːks dʒˈʌmps ˌoʊvɚ ðə lˈeɪzi dˈɑːɡ.", "ɪts ɐ nˈaɪs dˈeɪ, ˈɪznt ɪt?")
_SENTENCES = (  # ids of bert-base-uncased: the guitar twice, interest rates twice, dogs in the snow twice
    (101, 1037, 2158, 2003, 2652, 1037, 2858, 2006, 1996, 2395, 1012, 102),
    (101, 2619, 3248, 1996, 2858, 2648, 1012, 102),
    (101, 1996, 2924, 2992, 2049, 3037, 6165, 2006, 9857, 1012, 102),
    (101, 3037, 6165, 2020, 4196, 2011, 1996, 2430, 2924, 1012, 102),
    (101, 2048, 6077, 2448, 2083, 1996, 4586, 1012, 102),
    (101, 6077, 2024, 2770, 1999, 1996, 4586, 1012, 102),
)
_REPOSITORY = Path(__file__).resolve().parents[2]
_FILES = (
    "README.md",
    "pyproject.toml",
    "LICENSE",
    "models/real_files/texts.py",
    "models/tiny-bert-sst2/model.onnx",
    "models/tiny-bert-sst2/tokenizer.json",
)


def thai(model: Path) -> list[Feeds]:
    """Ids of the characters and of the syllables that they belong to [1, 2, characters]."""
    characters, syllables = (_json(model.parent / f"attacut-sc-{part}.json") for part in ("characters", "syllables"))
    made = []
    for sentence in _THAI:
        pairs: list[tuple[int, int]] = []
        for syllable in sentence.split("|"):
            pairs += [(characters.get(letter, 1), syllables.get(syllable, 1)) for letter in syllable]
        made.append({"input": np.array(pairs, np.int64).T[None]})
    return made


def khmer(model: Path) -> list[Feeds]:
    """Ids of characters and a mask that is true for all of them [1, characters]."""
    ids = _json(model.parent / "config.json")["char2id"]
    rows = [np.array([[ids.get(letter, 1) for letter in text]], np.int64) for text in _KHMER]
    return [{"x": row, "mask": np.ones(row.shape, bool)} for row in rows]


def arabic(model: Path) -> list[Feeds]:
    """The steps of writing each name down by the source itself: letters so far, what the encoder says, its state."""
    tokens = {token: number for number, token in enumerate(_json(model.parent / "vocab.json")["tokens"])}
    encoder, decoder = (_source(model.with_name(f"{part}.onnx")) for part in ("encoder", "decoder"))
    made: list[Feeds] = []
    for name in _ARABIC:
        letters = [tokens["<EG>"], tokens["<ROLE_GIVEN>"], *(tokens[letter] for letter in name), tokens["<EOS>"]]
        source = np.array([letters], np.int64)
        memory, mask, hidden = encoder.run(None, {"src": source, "src_mask": np.zeros(source.shape, bool)})
        prefix = [tokens["<BOS>"]]
        while prefix[-1] != tokens["<EOS>"] and len(prefix) < 16:
            step = {"prefix": np.array([prefix], np.int64), "memory": memory, "src_mask": mask, "hidden": hidden}
            scores, hidden = decoder.run(None, step)
            made.append(step)
            prefix.append(int(scores[0].argmax()))
    return made


def phonemes(model: Path) -> list[Feeds]:
    """Ids of phonemes with a blank between any two, and no noise, so that two runs give the same sound."""
    ids = _json(model.with_name(model.name + ".json"))["phoneme_id_map"]
    quiet = np.array([0, 1, 0], np.float32)  # noise of the sound, speed, noise of the speed
    made: list[Feeds] = []
    for text in _PHONEMES:
        blank, begin, end = (ids[sign][0] for sign in "_^$")
        spread = np.full(2 * len(text), blank)
        spread[::2] = [ids[sign][0] for sign in text]
        row = np.array([[begin, blank, *spread, end]], np.int64)
        made.append({"input": row, "input_lengths": np.array([row.shape[1]], np.int64), "scales": quiet})
    return made


def bytes_of_files(model: Path) -> list[Feeds]:
    """The first and the last 1,024 bytes without white space around, 256 where there are none [1, 2048]."""
    made = []
    for name in _FILES:
        content = (_REPOSITORY / name).read_bytes()
        first, last = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
        row = [*first, *[256] * (1024 - len(first)), *[256] * (1024 - len(last)), *last]
        made.append({"bytes": np.array([row], np.int32)})
    return made


def sentences(model: Path) -> list[Feeds]:
    """All sentences at once, the shorter ones padded [6, 12]."""
    ids = np.zeros((len(_SENTENCES), 12), np.int64)
    for row, sentence in zip(ids, _SENTENCES, strict=True):
        row[: len(sentence)] = sentence
    return [{"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}]


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _source(file: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
