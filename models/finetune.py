"""Make a harder task of an encoder: ``python models/finetune.py CHECKPOINT PAIRS.csv DIR``.

Trains a sentence encoder to sort pairs of sentences by likeness into six classes. Two-class tasks forgive much; here
every class borders on others, so that compressing costs what it costs. Rows are sentence, sentence, score from 0 to 5,
without a header, as in the STS benchmark. DIR gets a checkpoint for ``bct-onnx export`` and ``pairs.csv``, the rows
with classes for scores. Needs the extra ``bct-onnx[export]``; seeded, one thread, minutes for 1,500 pairs.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CLASSES = 6
BATCH, EPOCHS, RATE, LENGTH = 16, 4, 5e-5, 96

Pair = tuple[str, str, int]


def read(path: Path) -> list[Pair]:
    """Pairs and their classes: scores rounded half to even."""
    with path.open(encoding="utf-8", newline="") as rows:
        return [(row[0], row[1], round(float(row[2]))) for row in csv.reader(rows)]


def finetune(checkpoint: Path, pairs: list[Pair], folder: Path, epochs: int = EPOCHS) -> Iterator[tuple[int, float]]:
    """Train, and save model and tokenizer to ``folder``; step by step the number and the loss."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, num_labels=CLASSES, ignore_mismatched_sizes=True
    ).train()
    steps = epochs * -(-len(pairs) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    for step, chosen in enumerate(_batches(len(pairs), epochs, torch)):
        rows = [pairs[index] for index in chosen]
        left, right, classes = ([row[column] for row in rows] for column in range(3))
        inputs = tokenizer(left, right, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
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


def write(pairs: list[Pair], path: Path) -> None:
    """Pairs as ``bct-onnx eval --task classification --text 0,1 --label 2`` reads them."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(pairs)


def main() -> int:
    """Train as the command line says, or only write the classes of a file of scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="folder of an encoder for transformers")
    parser.add_argument("pairs", type=Path, help="rows to train on")
    parser.add_argument("folder", type=Path, help="where the checkpoint goes")
    parser.add_argument("--test", type=Path, help="rows to be written with classes as test.csv, nothing else")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    pairs = read(options.pairs)
    write(pairs, options.folder / "pairs.csv")
    if options.test is not None:
        write(read(options.test), options.folder / "test.csv")
    for step, loss in finetune(options.checkpoint, pairs, options.folder):
        if step % 20 == 0:
            print(f"step {step}, loss {loss:.3f}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
