"""How many tokens a model knows, from the tables that its inputs pick rows of."""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.runtime.understanding.uses import uses_of


def vocabulary(model: ir.Model) -> dict[str, int]:
    """For each input that picks rows of a table, the number of rows of the smallest such table."""
    rows = {name: uses.rows for name, uses in uses_of(model).items()}
    return {name: count for name, count in rows.items() if count is not None and count > 0}
