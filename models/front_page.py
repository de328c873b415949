"""Run what the front page shows: every command and every client's lines, as they stand there.

    python -m models.front_page [--javascript FOLDER/node_modules]

takes the code blocks and the commands within sentences out of README.md, and runs each in a folder with what it speaks
of: ``model.onnx`` and ``small.onnx``, ``FOLDER`` as the client has it, ``texts.csv`` and ``dev.csv``. What needs
a client that this interpreter lacks is named as not run; any failure ends with exit code 1.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bct_onnx import Options, rewrite
from bct_onnx.folders import rewrite_folder
from bct_onnx.report import Report

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
BUNDLED = ROOT / "models" / "tiny-bert-sst2"

ELSEWHERE = ("pip install",)
"""Commands that make environments: `.ci/run` runs those that install a checkout, `models.wheels` the others."""

TRANSFORMERS_JS = "@huggingface/transformers"

NEEDS = {"--distill": ("torch",), "--task": ("tokenizers",), "bct-onnx export": ("torch", "transformers", "optimum")}
"""Modules that a command with these words imports."""

GOOD = (
    "A warm and funny film.",
    "She is wonderful in it.",
    "A great story, well told.",
    "It is a delight, and moving.",
)
BAD = (
    "A dull and stupid film.",
    "The worst comedy of the year.",
    "A bad script, badly acted.",
    "It is a mess, and boring.",
)
"""What the bundled model, which judges films, is sure of."""


@dataclasses.dataclass(frozen=True)
class Snippet:
    """What a reader would copy.

    Attributes:
        line: Where it starts in README.md.
        language: ``sh``, ``python`` or ``js``.
        code: A command, or statements.
        modules: What it cannot do without; of ``js`` the package.
    """

    line: int
    language: str
    code: str
    modules: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For people: the line, and how it begins."""
        words = self.code.split() if self.language == "sh" else list(self.modules)
        return f"{self.line}: {' '.join(words[:3])}"


def snippets(text: str) -> list[Snippet]:
    """All that a page shows, in its order; commands within sentences too."""
    found: list[Snippet] = []
    language, start, code = "", 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.match(r"```(\w*)$", line)
        if fence is None and language:
            code.append(line)
        elif fence is None:
            found += [Snippet(number, "sh", command, _needed(command)) for command in _commands_in(line)]
        elif language:
            found += _split(language, start, code)
            language, code = "", []
        else:
            language, start = fence[1] or "text", number + 1
    return sorted(found, key=lambda snippet: snippet.line)


def _commands_in(sentence: str) -> list[str]:
    commands = re.findall(r"`(bct-onnx [^`]+)`", sentence)
    return [command for command in commands if not re.search(r"\bNAME\b", command)]


def _needed(command: str) -> tuple[str, ...]:
    """Modules that a command imports beside what bct-onnx always has."""
    return tuple(module for words, modules in NEEDS.items() if words in command for module in modules)


def _split(language: str, start: int, code: list[str]) -> Iterator[Snippet]:
    """A block as what can be run alone: a command, the statements around one import, or the whole."""
    if language == "sh":
        for number, line in enumerate(code, start):
            for command in line.partition("    #")[0].split(" && "):
                if command.startswith("bct-onnx"):
                    yield Snippet(number, "sh", command.strip(), _needed(command))
    elif language == "python":
        yield from _by_client(start, "\n".join(code))
    elif language == "js":
        yield Snippet(start, "js", "\n".join(code), (TRANSFORMERS_JS,))


def _by_client(start: int, code: str) -> Iterator[Snippet]:
    """Of statements that use one library each, those of each library; else the block as it is."""
    statements = ast.parse(code).body
    imports = [each for each in statements if isinstance(each, ast.Import | ast.ImportFrom)]
    if any(_names(each) & {"bct_onnx"} for each in imports):
        yield Snippet(start, "python", code, ("bct_onnx",))
        return
    for each in imports:
        bound = _names(each)
        used = [one for one in statements if one not in imports and bound & set(_read(one))]
        assert used, f"line {start}: nothing uses {bound}"
        module = each.module if isinstance(each, ast.ImportFrom) else each.names[0].name
        lines = [ast.get_source_segment(code, part) or "" for part in (each, *used)]
        yield Snippet(start + each.lineno - 1, "python", "\n".join(lines), ((module or "").partition(".")[0],))


def _names(statement: ast.Import | ast.ImportFrom) -> set[str]:
    return {alias.asname or alias.name for alias in statement.names}


def _read(statement: ast.AST) -> Iterator[str]:
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            yield node.id


def missing(snippet: Snippet, javascript: Path | None) -> str:
    """Why a snippet cannot be run here; empty where it can."""
    if snippet.language == "js":
        return "" if javascript is not None else "--javascript FOLDER/node_modules names where its package is"
    lacking = [module for module in snippet.modules if importlib.util.find_spec(module) is None]
    return f"{', '.join(lacking)} not installed" if lacking else ""


def prepare(place: Path, snippet: Snippet) -> None:
    """Fill an empty folder with what a snippet speaks of, the part of ``FOLDER`` as its client has it."""
    if "-o model.onnx" not in snippet.code:
        shutil.copyfile(BUNDLED / "model.onnx", place / "model.onnx")
    (place / "models").mkdir()
    shutil.copytree(BUNDLED, place / "models" / BUNDLED.name)
    texts = "".join(f'"{sentence}"\n' for sentence in GOOD + BAD)
    (place / "texts.csv").write_text(texts, encoding="utf-8")
    (place / "dev.csv").write_text("".join(_pairs()), encoding="utf-8")
    folder = place / "FOLDER"
    if "sentence_transformers" in snippet.modules:
        _embedder(folder)
    elif "onnxruntime_genai" in snippet.modules:
        _decoder(folder)
    elif snippet.language == "js":
        rewrite_folder(BUNDLED, folder, _quickly, layout="transformers.js")
    else:
        shutil.copytree(BUNDLED, folder)
    if "--recipe plan.toml" in snippet.code:
        plan = ["--dry-run", "--target-ratio", "12", "--plan", str(place / "plan.toml")]
        subprocess.run([sys.executable, "-m", "bct_onnx", "rewrite", str(place / "model.onnx"), *plan], check=True)
    written = "-o small.onnx" in snippet.code or 'output=Path("small.onnx")' in snippet.code
    if "small.onnx" in snippet.code and not written:
        _quickly(place / "model.onnx", place / "small.onnx")
        shutil.copyfile(place / "small.onnx", folder / "small.onnx")


def _pairs() -> Iterator[str]:
    """Pairs of sentences that are alike where both praise or neither does."""
    for first in GOOD + BAD:
        for second in GOOD + BAD:
            alike = (first in GOOD) == (second in GOOD)
            yield f'"{first}","{second}",{5.0 if alike else 0.0}\n'


def _quickly(source: Path, output: Path) -> Report:
    return rewrite(source, "w4a8-nearest", options=Options(output, force=True, accept=True))


def _embedder(folder: Path) -> None:
    """A BERT of random weights without a head, as sentence-transformers keeps it in ONNX."""
    import transformers

    from bct_onnx.exporting import export

    config = transformers.BertConfig.from_pretrained(BUNDLED)
    shutil.copytree(BUNDLED, folder, ignore=shutil.ignore_patterns("*.onnx"))
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "onnx").mkdir()
    export(folder, folder / "onnx" / "model.onnx")
    _quickly(folder / "onnx" / "model.onnx", folder / "onnx" / "small.onnx")


def _decoder(folder: Path) -> None:
    """A Llama of random weights with a cache, as onnxruntime-genai loads it."""
    import transformers

    source = folder.with_name("checkpoint")
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(vocab_size=6000, max_position_embeddings=128, **sizes)
    transformers.LlamaForCausalLM(config).save_pretrained(source)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(BUNDLED / name, source / name)
    rewrite_folder(source, folder, _quickly, layout="genai")


def run(snippet: Snippet, place: Path, javascript: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a snippet in a prepared folder."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    code = snippet.code
    if snippet.language == "sh":
        code = re.sub(r"\bFOLDER_OR_HUB_ID\b", "checkpoint", code)
        if "checkpoint" in code:
            _checkpoint(place / "checkpoint")
        command = ["sh", "-c", re.sub(r"^bct-onnx", f"'{sys.executable}' -m bct_onnx", code)]
    elif snippet.language == "python":
        command = [sys.executable, "-c", code]
    else:
        assert javascript is not None
        _javascript(place, javascript)
        answers = '\nconsole.log(JSON.stringify(await classify(["a good film", "a bad film"])));\n'
        (place / "snippet.mjs").write_text(code + answers, encoding="utf-8")
        command = ["node", "snippet.mjs"]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)


def _checkpoint(folder: Path) -> None:
    import transformers

    config = transformers.BertConfig.from_pretrained(BUNDLED)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)


def _javascript(place: Path, packages: Path) -> None:
    """Make the package known under its name beside the snippet; ``packages`` is that of `models.clients`."""
    link = place / "node_modules" / TRANSFORMERS_JS
    link.parent.mkdir(parents=True)
    link.symlink_to((packages / "transformers-4").resolve(), target_is_directory=True)


def main() -> int:
    """Run all and say how each went."""
    parser = argparse.ArgumentParser(prog="python -m models.front_page", description=__doc__)
    parser.add_argument("--javascript", type=Path, help="node_modules of models/clients/web, once installed")
    parser.add_argument("--only", default="", help="only snippets whose line or beginning has this in it")
    options = parser.parse_args()
    failed = 0
    for snippet in snippets(README.read_text(encoding="utf-8")):
        if options.only not in snippet.name:
            continue
        if why := missing(snippet, options.javascript):
            print(f"not run   {snippet.name}: {why}", flush=True)
            continue
        with tempfile.TemporaryDirectory() as place:
            prepare(Path(place), snippet)
            done = run(snippet, Path(place), options.javascript)
        print(f"{'failed' if done.returncode else 'ran':<9} {snippet.name}", flush=True)
        if done.returncode:
            failed += 1
            print(json.dumps(snippet.code), done.stdout[-800:], done.stderr[-1500:], sep="\n", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
