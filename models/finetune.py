"""Make a harder task of an encoder: ``python models/finetune.py CHECKPOINT ROWS.csv DIR``.

Trains a sentence encoder to sort texts, or pairs of them, into classes. Two-class tasks forgive much; where every class
borders on others compressing costs what it costs. Rows are one text or two and a class, without a header; a score such
as that of the STS benchmark, from 0 to 5, is rounded to six classes. `models/missing_word.py` makes rows of any text.
DIR gets a checkpoint for ``bct-onnx export`` and ``rows.csv``, the rows with classes for scores. Needs the extra
``bct-onnx[export]``; seeded, one thread, minutes for 1,500 rows.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

BATCH, EPOCHS, RATE, LENGTH = 16, 4, 5e-5, 96

Row = tuple[tuple[str, ...], int]
"""One text or two, and their class."""


def read(path: Path) -> list[Row]:
    """Texts and their classes: scores rounded half to even."""
    with path.open(encoding="utf-8", newline="") as rows:
        return [(tuple(texts), round(float(score))) for *texts, score in csv.reader(rows)]


def finetune(checkpoint: Path, rows: list[Row], folder: Path, epochs: int = EPOCHS) -> Iterator[tuple[int, float]]:
    """Train, and save model and tokenizer to ``folder``; step by step the number and the loss."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, num_labels=1 + max(kind for _, kind in rows), ignore_mismatched_sizes=True
    ).train()
    steps = epochs * -(-len(rows) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    for step, chosen in enumerate(_batches(len(rows), epochs, torch)):
        texts = [list(column) for column in zip(*(rows[index][0] for index in chosen), strict=True)]
        classes = [rows[index][1] for index in chosen]
        inputs = tokenizer(*texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
        loss = model(**inputs, labels=torch.tensor(classes)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        yield step, loss.item()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _batches(count: int, epochs: int, torch: Any) -> Iterator[list[int]]:
    for _ in range(epochs):
        order = torch.randperm(count).tolist()
        yield from (order[start : start + BATCH] for start in range(0, count, BATCH))


def write(rows: Sequence[Row], path: Path) -> None:
    """Rows as ``bct-onnx compare --task classification --text 0,1 --label 2`` reads them."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([*texts, kind] for texts, kind in rows)


def main() -> int:
    """Train as the command line says, or only write the classes of a file of scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="folder of an encoder for transformers")
    parser.add_argument("rows", type=Path, help="rows to train on")
    parser.add_argument("folder", type=Path, help="where the checkpoint goes")
    parser.add_argument("--test", type=Path, help="rows to be written with classes as test.csv, nothing else")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = read(options.rows)
    write(rows, options.folder / "rows.csv")
    if options.test is not None:
        write(read(options.test), options.folder / "test.csv")
    for step, loss in finetune(options.checkpoint, rows, options.folder):
        if step % 20 == 0:
            print(f"step {step}, loss {loss:.3f}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
