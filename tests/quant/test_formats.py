"""Formats of single tensors: entries are read, the first that fits counts, and what fits nothing is known."""

from __future__ import annotations

import pytest

from bct_onnx.errors import UsageError
from bct_onnx.quant import Scheme
from bct_onnx.quant.formats import Formats

DEFAULT = Scheme(4, 32, signed_scales=True)


def schemes(entries: list[str], *names: str, default: Scheme = DEFAULT) -> list[Scheme | None]:
    formats = Formats(entries, default)
    return [formats.of(name) for name in names]


def test_an_entry_changes_bits_and_block_and_nothing_else() -> None:
    default = Scheme(4, 32, search="max", reduce_range=False, signed_scales=True)
    assert schemes(["3/64:a"], "a", "b", default=default) == [
        Scheme(3, 64, search="max", reduce_range=False, signed_scales=True),
        default,
    ]


def test_blocks_of_two_sides_and_none() -> None:
    assert schemes(["2/16x8:a", "8:b"], "a", "b") == [
        Scheme(2, (16, 8), signed_scales=True),
        Scheme(8, 32, signed_scales=True),
    ]


def test_the_first_of_several_counts() -> None:
    assert schemes(["2/32:layer.0.*", "32:*.q", "3/32:layer.*"], "layer.0.q", "layer.1.q", "layer.1.k") == [
        Scheme(2, 32, signed_scales=True),
        None,
        Scheme(3, 32, signed_scales=True),
    ]


@pytest.mark.parametrize("name", ["/layer.0/MatMul", "w[0]", "a:b", "a/b@c", "onnx::MatMul_12"])
def test_a_name_is_a_pattern_for_itself(name: str) -> None:
    assert schemes([f"2:{name}"], name, "other") == [Scheme(2, 32, signed_scales=True), DEFAULT]


def test_any_of_the_names_of_a_tensor() -> None:
    formats = Formats(["2:node"], DEFAULT)
    assert formats.of("weight", "node") == Scheme(2, 32, signed_scales=True)
    assert formats.of(None, "") == DEFAULT


def test_unused_entries_are_known() -> None:
    formats = Formats(["2:a*", "3:ab", "4:c"], DEFAULT)
    formats.of("ab")
    assert formats.unused == ("3:ab", "4:c")


@pytest.mark.parametrize(
    "entry", ["", "4", "4/32", "4/32:", "four:a", "4/:a", "/32:a", "-4:a", "4/32x:a", "4/32x8x2:a"]
)
def test_what_is_no_entry(entry: str) -> None:
    with pytest.raises(UsageError, match="is no format"):
        Formats([entry], DEFAULT)


@pytest.mark.parametrize("entry", ["5/32:a", "4/0:a", "16:a", "8:a"])
def test_schemes_that_are_not_allowed(entry: str) -> None:
    with pytest.raises(UsageError) as caught:
        Formats([entry], Scheme(4, 32, symmetric=False))
    assert f"format '{entry}'" in caught.value.what


def test_ranges_of_rows() -> None:
    formats = Formats(["3/16@4-10:table", "8@0-4:table", "2:tab*"], DEFAULT)
    three, eight = Scheme(3, 16, signed_scales=True), Scheme(8, 32, signed_scales=True)
    assert formats.parts("table", 10) == [(slice(0, 4), eight), (slice(4, 10), three)]
    assert formats.unused == ("2:tab*",)


def test_one_range_is_the_default() -> None:
    formats = Formats(["2:words", "32:kinds", "3@0-4:words"], DEFAULT)
    assert formats.parts("other", 7) == [(slice(0, 7), DEFAULT)]
    assert formats.parts("words", 4) == [(slice(0, 4), Scheme(2, 32, signed_scales=True))]
    assert formats.parts("kinds", 4) == []
    assert formats.unused == ("3@0-4:words",)


@pytest.mark.parametrize(
    "entries",
    [["4@0-5:t"], ["4@1-10:t"], ["4@0-5:t", "3@6-10:t"], ["4@0-6:t", "3@5-10:t"], ["4@0-5:t", "3@5-11:t"]],
    ids=["end", "start", "gap", "overlap", "beyond"],
)
def test_ranges_have_every_row_once(entries: list[str]) -> None:
    with pytest.raises(UsageError, match="each of its 10 rows once"):
        Formats(entries, DEFAULT).parts("t", 10)


@pytest.mark.parametrize("entry", ["4@5-5:t", "4@7-5:t", "32@0-5:t"])
def test_ranges_without_rows_or_of_floats(entry: str) -> None:
    with pytest.raises(UsageError, match="no rows, or rows that stay float"):
        Formats([entry], DEFAULT)
