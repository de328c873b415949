"""Which of a model's outputs a task reads, where the task scores logits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from bct_onnx.errors import UsageError


def main_output(names: Sequence[str]) -> str:
    """The output by which models are compared: the logits, else the first."""
    if "logits" in names:
        return "logits"
    return names[0]


def logits_output(outputs: Mapping[str, int], ranks: Collection[int], wanted: str) -> str:
    """The output called `logits`, whatever its rank; else the first that may have one of the ranks.

    >>> logits_output({"pooled": 2, "linear_7": 3}, ranks=(3,), wanted="language model output")
    'linear_7'

    Args:
        outputs: Rank by name; -1, which fits, where the model declares none.
        ranks: Numbers of axes that fit.
        wanted: What the task looks for, in words.

    Raises:
        UsageError: No output fits.
    """
    fitting = (name for name, rank in outputs.items() if rank in (*ranks, -1))
    output = "logits" if "logits" in outputs else next(fitting, None)
    if output is None:
        raise UsageError(f"the model has no {wanted}", why=f"outputs are {', '.join(outputs)}")
    return output
