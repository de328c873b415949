"""The tasks by name, with what each reports: one call from a name and a data source to something to evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bct_onnx.errors import UsageError
from bct_onnx.tasks.classification import Classification
from bct_onnx.tasks.evaluate import Task
from bct_onnx.tasks.labelled import LabelledTexts
from bct_onnx.tasks.perplexity import Perplexity
from bct_onnx.tasks.regression import Regression
from bct_onnx.tasks.retrieval import Retrieval
from bct_onnx.tasks.similarity import Similarity
from bct_onnx.tasks.token_classification import TokenClassification

TASKS = {
    "classification": "a class per text or pair: accuracy, F1, Matthews, x 100",
    "regression": "a number per text or pair: Spearman, Pearson, x 100",
    "similarity": "cosine of two pooled embeddings against a score: Spearman, Pearson, x 100",
    "retrieval": "queries rank all passages, a row per judgment: NDCG@10, recall@10, recall@100, x 100",
    "perplexity": "language model, per token; a text is cut into windows, each predicted from its own start",
    "token-classification": "a tag per word: F1, precision, recall of entities, x 100",
}


def load_task(
    name: str,
    data: Path | str,
    tokenizer: Path,
    *,
    text: Sequence[str] = (),
    label: str | None = None,
    max_length: int = 128,
    limit: int | None = None,
    pooling: str | None = None,
) -> Task:
    """Read the data of a task.

    Args:
        name: One of `TASKS`.
        data: A file, or a data set as `bct_onnx.tasks.sources.open_dataset` names it.
        tokenizer: Folder of `tokenizer.json`, and of `config.json` where labels have names.
        text: Text column or two; by default the usual ones.
        label: Column of labels, scores or tags; by default the usual one.
        max_length: Tokens per text, or predictions per window.
        limit: Only the first so many rows, or windows.
        pooling: How similarity and retrieval make one embedding of a sentence; see `Similarity.load`.

    Raises:
        UsageError: The task is unknown, or its data or tokenizer cannot be read.
    """
    if name == "perplexity":
        column = text[0] if text else None
        return Perplexity.load(data, tokenizer, text=column, max_length=max_length, limit=limit)
    source = LabelledTexts(data, tokenizer, text, label, max_length, limit)
    if name == "similarity":
        return Similarity.load(source, pooling)
    if name == "retrieval":
        return Retrieval.load(source, pooling)
    plain: dict[str, type[Classification] | type[Regression] | type[TokenClassification]] = {
        "classification": Classification,
        "regression": Regression,
        "token-classification": TokenClassification,
    }
    if name not in plain:
        raise UsageError(f"unknown task '{name}'", where="--task", fix=f"use {', '.join(TASKS)}")
    return plain[name].load(source)
