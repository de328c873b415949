"""``bct-onnx rewrite --report``: where a page is written, and where it is refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.graph import handmade
from tests.passes.small import normal

MATRIX = """<ir_version: 10, opset_import: ["" : 21]>
    net (float[batch, sequence, 256] x) => (float[batch, sequence, 256] y) { y = MatMul (x, w) }"""


@pytest.mark.whole
def test_a_page_is_written_beside_the_result_and_not_over_another(
    invoke: Invoke, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of a small model: what pages of whole ones say is another question, and takes long."""
    source = handmade.write(handmade.model(MATRIX, w=normal(256, 256)), tmp_path_factory.mktemp("in") / "model.onnx")
    arguments = ("rewrite", source, "-o", "small.onnx", "--preset", "w4a8-nearest", "--report", "page.html")
    assert "page.html" in invoke(*arguments)
    content = Path("page.html").read_text(encoding="utf-8")
    assert "page.html" in invoke(*arguments[:3], "other.onnx", *arguments[4:], code=2)
    assert not Path("other.onnx").exists() and Path("page.html").read_text(encoding="utf-8") == content
    invoke(*arguments, "--force")
    assert sorted(path.name for path in Path().iterdir()) == ["page.html", "small.onnx"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--dry-run", "--report", "page.html"), "measures the file"),
        (("-o", "page.html", "--report", "page.html"), "one name"),
        (("-o", "small.onnx", "--report", "nowhere/page.html"), "folder does not exist"),
    ],
)
def test_a_page_that_cannot_be_is_refused_first(
    invoke: Invoke, bundled_model: Path, arguments: tuple[str, ...], said: str
) -> None:
    assert said in invoke("rewrite", bundled_model, *arguments, code=2)
    assert not list(Path().iterdir())
