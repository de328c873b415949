"""What the JSON files of a model's folder say: its labels, its padding, how vectors of tokens become one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bct_onnx.errors import UsageError


def settings(file: Path) -> dict[str, Any]:
    """The object that a JSON file holds; empty where there is no such file.

    Raises:
        UsageError: It cannot be read, or holds something else.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError("the settings of the model cannot be read", where=str(file), why=str(error)) from error
    if not isinstance(content, dict):
        raise UsageError("the settings of the model are no object", where=str(file))
    return content
