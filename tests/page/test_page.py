"""``rewrite --report``: the page stands alone, says what the report says, and appears whole or not at all."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bct_onnx import figures, page
from bct_onnx.graph.load import load
from bct_onnx.page import alternatives, samples
from bct_onnx.page.markup import Bar, Point, bars, scatter, text
from bct_onnx.quant import Error
from bct_onnx.report import Report
from bct_onnx.runtime.session import session
from bct_onnx.runtime.understanding import Sampler
from tests.whole_models import Compressed


class Reader(html.parser.HTMLParser):
    """Checks that tags are closed in order, and keeps what the page refers to and its text by section."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.sections: dict[str, str] = {}
        self._section = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        self.addresses += [value for key, value in attributes if key in ("src", "href") and value]
        if tag not in ("meta", "path", "circle"):
            self.open.append(tag)
        if tag == "section":
            self._section = named["id"] or ""

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "circle"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.sections[self._section] = self.sections.get(self._section, "") + data


def read(content: str) -> Reader:
    reader = Reader()
    reader.feed(content)
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def rendered(bundled_model: Path, compressed: Callable[..., Compressed]) -> tuple[str, Report, page.Evidence]:
    whole = compressed("bct-plus", "ort-cpu")
    result, report = whole.file, whole.report
    evidence = page.gather(bundled_model, result, report, None, lambda label, done, total: None)
    return page.render(report, evidence, bundled_model, result), report, evidence


def test_the_page_stands_alone(rendered: tuple[str, Report, page.Evidence]) -> None:
    content, _, _ = rendered
    reader = read(content)
    assert all(address.startswith("#") for address in reader.addresses)
    assert "url(" not in content and "@import" not in content
    assert {address[1:] for address in reader.addresses} <= set(reader.sections)


def test_the_page_answers_the_five_questions(rendered: tuple[str, Report, page.Evidence], bundled_model: Path) -> None:
    content, report, evidence = rendered
    sections = read(content).sections
    assert figures.times(report.ratio_file) in sections[""] and "embeddings" in sections["smaller"]
    assert report.parity is not None
    assert figures.decibels(report.parity.worst[1].sqnr_db) in sections["worse"]
    assert set(evidence.weight_errors) == {"outside of layers", "layer 0", "layer 1", "layer 2"}
    assert all(layer in sections["where"] for layer in evidence.weight_errors)
    assert all(reason in sections["where"] for _, _, reason in report.float_weights_left)
    assert "1 x 16" in sections["fast"] and "8 x 128" in sections["fast"] and "MatMulIntegerToFloat" in sections["fast"]
    assert "bct-onnx compare" in sections["next"] and str(bundled_model) in sections["next"]
    assert [one.bits for one in evidence.alternatives] == list(alternatives.BITS)
    assert all(f"{one.bits}-bit weights" in sections["sizes"] for one in evidence.alternatives)


def test_the_page_carries_the_report(rendered: tuple[str, Report, page.Evidence]) -> None:
    content, report, _ = rendered
    data = re.search(r'<script type="application/json" id="report">(.*?)</script>', content, re.DOTALL)
    assert data is not None
    assert json.loads(data[1]) == json.loads(json.dumps(report.as_dict()))


def test_layers_add_up_to_the_operators(rendered: tuple[str, Report, page.Evidence]) -> None:
    _, _, evidence = rendered
    for layers, operators in zip(evidence.layer_ms, evidence.operator_ms, strict=True):
        assert sum(layers.values()) == pytest.approx(sum(operators.values()))
        assert {"layer 0", "layer 1", "layer 2"} <= set(layers)


def test_answers_to_sentences_are_set_side_by_side(rendered: tuple[str, Report, page.Evidence]) -> None:
    _, _, evidence = rendered
    assert evidence.samples is not None
    assert [row[0] for row in evidence.samples.rows] == list(samples.TEXTS)
    assert evidence.samples.figure[0].endswith(f"of {len(samples.TEXTS)}")


def test_numbers_are_shown_where_there_is_no_tokenizer(bundled_model: Path, tmp_path: Path) -> None:
    runner = session(bundled_model)
    shown = samples.samples(Sampler(load(bundled_model), runner), runner, runner, tmp_path)
    assert [row[0] for row in shown.rows] == ["logits"]
    assert all(left == right for _, left, right in shown.rows)


def test_names_cannot_break_the_page() -> None:
    assert text("<script>") == "&lt;script&gt;"
    drawn = bars([Bar("<b>", (1.0, 2.0), "words")])
    assert "&lt;b&gt;" in drawn and 'style="width:100.00%"' in drawn
    assert "&lt;b&gt;" in scatter([Point("<b>", 1.0, 2.0), Point("here", 2.0, 3.0, chosen=True)], "MB", "dB")


def test_without_a_check_the_page_says_so(bundled_model: Path, compressed: Callable[..., Compressed]) -> None:
    whole = compressed("bct-plus", "ort-cpu")
    result, report = whole.file, whole.report
    unchecked = dataclasses.replace(report, parity=None, timings=(), load_seconds=None, unchecked="switched off")
    evidence = page.gather(bundled_model, result, unchecked, None, lambda label, done, total: None)
    sections = read(page.render(unchecked, evidence, bundled_model, result)).sections
    assert "switched off" in sections["worse"] and "switched off" in sections["fast"]
    assert evidence.samples is None and isinstance(sum(evidence.weight_errors.values(), Error()), Error)
