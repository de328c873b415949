"""The page of all passes, ``passes/README.md``, made from their docstrings."""

from __future__ import annotations

import inspect

from bct_onnx.base import Pass
from bct_onnx.registry import PASSES

_HEAD = """# The passes, in running order

Made by `bct-onnx list passes --markdown > passes/README.md` from the first sentence and the promise in each docstring.
`bct-onnx list NAME` shows the whole of it: why, before and after, what it declines, its options, and its defaults.

A pass that is *exact* changes outputs by no more than float rounding, which is checked on every run. One that is
*bounded* loses something, and reports how much; where dB stand beside it, every output keeps so many of what it was
just before, which is checked on every run too. `--verify-each` checks every pass: the ONNX checker, loading in ONNX
Runtime, and the outputs against the model as it came. `--keep-passes DIR` writes the model after every pass, to be
opened in [Netron](https://netron.app).

| pass | what it does | promise |
|---|---|---|
"""


def page() -> str:
    """The whole page as Markdown."""
    return _HEAD + "".join(map(_row, PASSES.values()))


def _row(kind: type[Pass]) -> str:
    text = inspect.cleandoc(kind.__doc__ or "")
    first = " ".join(text.split("\n\n", 1)[0].split())
    summary = first.replace("``", "`").replace("|", "\\|")
    promise = kind.promise if kind.least is None else f"{kind.promise}, {kind.least:g} dB"
    return f"| [`{kind.name}`]({kind.__module__.removeprefix('passes.')}.py) | {summary} | {promise} |\n"
