"""Make a harder task of an encoder: ``python models/finetune.py CHECKPOINT ROWS.csv DIR``.

Trains a sentence encoder to sort texts, or pairs of them, into classes. Two-class tasks forgive much; where every class
borders on others compressing costs what it costs. Rows are one text or two and a class, without a header; a score such
as that of the STS benchmark, from 0 to 5, is rounded to six classes. `models/missing_word.py` makes rows of any text.
ROWS may be a folder of requests such as ``snips/train`` (`models/intents.py`): their intents are learned, or with
``--slots`` a tag for every word. DIR gets a checkpoint for ``bct-onnx export`` and what it was trained on, as
``rows.csv`` or ``rows.conll``. Needs the extra ``bct-onnx[export]``; seeded, one thread, minutes for 1,500 rows.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from models import intents

BATCH, EPOCHS, RATE, LENGTH = 16, 4, 5e-5, 96

UNTAGGED = -100
"""What transformers leaves out of the loss: tokens that no word begins with."""

Row = tuple[tuple[str, ...], int]
"""One text or two, and their class."""


@dataclasses.dataclass(frozen=True)
class Classes:
    """Texts, or pairs of them, each of a class.

    Attributes:
        rows: Texts and the number of their class.
        names: Of the classes; empty where they are numbers.
    """

    rows: Sequence[Row]
    names: tuple[str, ...] = ()
    head = "AutoModelForSequenceClassification"
    file = "csv"

    @property
    def count(self) -> int:
        """Number of classes."""
        return len(self.names) or 1 + max(kind for _, kind in self.rows)

    def batch(self, tokenizer: Any, chosen: Sequence[int]) -> dict[str, Any]:
        """Inputs and labels of some rows."""
        texts = [list(column) for column in zip(*(self.rows[index][0] for index in chosen), strict=True)]
        inputs = tokenizer(*texts, padding=True, truncation=True, max_length=LENGTH)
        return {**inputs, "labels": [self.rows[index][1] for index in chosen]}

    def write(self, path: Path) -> None:
        """Rows as ``bct-onnx compare --task classification --text 0,1 --label 2`` reads them."""
        write(self.rows, path)


@dataclasses.dataclass(frozen=True)
class Tags:
    """Sentences with a tag for every word.

    Attributes:
        rows: Words and tags.
        names: Of the tags.
    """

    rows: Sequence[intents.Tagged]
    names: tuple[str, ...]
    head = "AutoModelForTokenClassification"
    file = "conll"

    @property
    def count(self) -> int:
        """Number of tags."""
        return len(self.names)

    def batch(self, tokenizer: Any, chosen: Sequence[int]) -> dict[str, Any]:
        """Inputs and labels of some rows; the first token of a word has its tag."""
        words = [list(self.rows[index][0]) for index in chosen]
        inputs = tokenizer(words, is_split_into_words=True, padding=True, truncation=True, max_length=LENGTH)
        labels: list[list[int]] = []
        for row, index in enumerate(chosen):
            places = inputs.word_ids(row)
            tags = self.rows[index][1]
            labels.append([UNTAGGED] * len(places))
            for word, tag in enumerate(tags):
                if word in places:  # not where the row was cut off
                    labels[row][places.index(word)] = self.names.index(tag)
        return {**inputs, "labels": labels}

    def write(self, path: Path) -> None:
        """Rows as ``bct-onnx compare --task token-classification`` reads them."""
        intents.write_tagged(self.rows, path)


Task = Classes | Tags


def read(path: Path) -> list[Row]:
    """Texts and their classes: scores rounded half to even."""
    with path.open(encoding="utf-8", newline="") as rows:
        return [(tuple(texts), round(float(score))) for *texts, score in csv.reader(rows)]


def task_of(path: Path, *, slots: bool = False) -> Task:
    """What a file of rows or a folder of requests asks for."""
    if not path.is_dir():
        return Classes(read(path))
    if slots:
        return Tags(intents.tagged(path), intents.names(path, "slot"))
    names = intents.names(path, "intent")
    return Classes([((text,), names.index(intent)) for text, intent in intents.read(path)], names)


@dataclasses.dataclass(frozen=True)
class Course:
    """How long and how fast a model learns.

    Attributes:
        epochs: How often it sees all rows.
        rate: The highest learning rate, after a tenth of the steps.
        batch: Rows in a step.
    """

    epochs: int = EPOCHS
    rate: float = RATE
    batch: int = BATCH


def finetune(checkpoint: Path, task: Task, folder: Path, course: Course = Course()) -> Iterator[tuple[int, float]]:
    """Train, and save model and tokenizer to ``folder``; step by step the number and the loss."""
    import torch
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = _model(checkpoint, task).train()
    steps = course.epochs * -(-len(task.rows) // course.batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=course.rate, weight_decay=0.01, fused=True)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    for step, chosen in enumerate(_batches(len(task.rows), course, torch)):
        inputs = {name: torch.tensor(values) for name, values in _padded(task.batch(tokenizer, chosen)).items()}
        loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        yield step, loss.item()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _model(checkpoint: Path, task: Task) -> Any:
    """The encoder under a new head, whose classes have names where these are known."""
    import transformers

    named = {} if not task.names else {"id2label": dict(enumerate(task.names)), "label2id": _numbers(task.names)}
    kind = getattr(transformers, task.head)
    return kind.from_pretrained(checkpoint, num_labels=task.count, ignore_mismatched_sizes=True, **named)


def _numbers(names: Sequence[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


def _padded(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with labels of tokens as long as the longest of its rows."""
    labels = batch["labels"]
    if isinstance(labels[0], int):
        return batch
    width = max(map(len, labels))
    return {**batch, "labels": [[*row, *[UNTAGGED] * (width - len(row))] for row in labels]}


def _batches(count: int, course: Course, torch: Any) -> Iterator[list[int]]:
    for _ in range(course.epochs):
        order = torch.randperm(count).tolist()
        yield from (order[start : start + course.batch] for start in range(0, count, course.batch))


def write(rows: Sequence[Row], path: Path) -> None:
    """Rows as ``bct-onnx compare --task classification --text 0,1 --label 2`` reads them."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([*texts, kind] for texts, kind in rows)


def main() -> int:
    """Train as the command line says, or only write the classes of a file of scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="folder of an encoder for transformers")
    parser.add_argument("rows", type=Path, help="rows to train on, or a folder of requests")
    parser.add_argument("folder", type=Path, help="where the checkpoint goes")
    parser.add_argument("--test", type=Path, help="the same to be written as test.csv or test.conll, nothing else")
    parser.add_argument("--slots", action="store_true", help="of requests learn the tags of words")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="how often all rows are seen")
    parser.add_argument("--rate", type=float, default=RATE, help="highest learning rate")
    parser.add_argument("--batch", type=int, default=BATCH, help="rows in a step")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    task = task_of(options.rows, slots=options.slots)
    task.write(options.folder / f"rows.{task.file}")
    if options.test is not None:
        task_of(options.test, slots=options.slots).write(options.folder / f"test.{task.file}")
    course = Course(options.epochs, options.rate, options.batch)
    for step, loss in finetune(options.checkpoint, task, options.folder, course):
        if step % 20 == 0:
            print(f"step {step}, loss {loss:.3f}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
