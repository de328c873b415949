"""The table of clients that generate: which tokens count as the same, and what is said of those that do not load."""

from __future__ import annotations

from typing import Any

from models.clients.generation import markdown


def _row(tokens: list[list[int]], ms: float | None = None) -> dict[str, Any]:
    return {"loads": True, "tokens": tokens, "ms": ms}


def test_a_cell_counts_the_tokens_that_are_native_ones() -> None:
    native = {"version": "1", "rows": {"fp32": _row([[1, 2], [3, 4]]), "w4": _row([[5, 6], [7, 8]])}}
    client = {"version": "2", "rows": {"fp32": _row([[1, 9], [3, 4]], 1.5), "w4": {"loads": False, "why": "no kernel"}}}
    page = markdown({"decoder": {"onnxruntime": native, "genai": client}})
    assert "| onnxruntime 1 | 4/4 | 4/4 |" in page
    assert "| genai 2 | 3/4; 1.50 ms | no |" in page
    assert "- genai, w4: no kernel" in page
