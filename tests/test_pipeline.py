"""Pipeline texts: they parse back to what they were written from, and a wrong one says where and why."""

from __future__ import annotations

import dataclasses
import string
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bct_onnx import registry
from bct_onnx.base import Applied, Pass
from bct_onnx.errors import UsageError
from bct_onnx.option_text import option_text, read_option
from bct_onnx.pipeline import Pipeline


@dataclasses.dataclass(frozen=True)
class Plain(Pass):
    name: ClassVar[str] = "plain"

    def apply(self, model: Any) -> Applied:
        return Applied(model)


@dataclasses.dataclass(frozen=True)
class Rich(Pass):
    """One option of every type that passes use."""

    name: ClassVar[str] = "rich"

    bits: int = 4
    ratio: float = 0.5
    exact: bool = True
    scale: Literal["two-level", "shift", "float"] = "two-level"
    block: int | tuple[int, int] = 32
    skip: tuple[str, ...] = ()
    file: str = ""
    table_bits: int = 8

    def __post_init__(self) -> None:
        if self.bits > 8:
            raise UsageError(f"{self.bits} bits are too many", fix="1 to 8")

    def apply(self, model: Any) -> Applied:
        return Applied(model)


KNOWN: dict[str, type[Pass]] = {"plain": Plain, "rich": Rich}
WORDS = st.text(string.ascii_letters + string.digits + "_./*-", min_size=1, max_size=8)
RICH = st.builds(
    Rich,
    bits=st.integers(-3, 8),
    ratio=st.floats(allow_nan=False),
    exact=st.booleans(),
    scale=st.sampled_from(["two-level", "shift", "float"]),
    block=st.one_of(st.integers(1, 512), st.tuples(st.integers(1, 512), st.integers(1, 512))),
    skip=st.lists(WORDS, max_size=3).map(tuple),
    file=st.text(max_size=12),
    table_bits=st.integers(1, 8),
)
PIPELINES = st.lists(st.one_of(st.builds(Plain), RICH), max_size=5).map(lambda made: Pipeline(tuple(made)))


def parse(text: str) -> Pipeline:
    return Pipeline.parse(text, KNOWN)


def message(text: str) -> str:
    with pytest.raises(UsageError) as error:
        parse(text)
    return str(error.value)


def caret(text: str) -> str:
    """What the caret in the message about ``text`` points at, up to the end."""
    lines = message(text).splitlines()
    shown = next(i for i, line in enumerate(lines) if line.strip() == text.strip() and text in line)
    mark = lines[shown + 1]
    assert mark.strip() == "^"
    return lines[shown][mark.index("^") :]


@given(PIPELINES)
def test_text_round_trip(pipeline: Pipeline) -> None:
    assert parse(str(pipeline)) == pipeline
    assert parse(pipeline.full_text()) == pipeline


@given(PIPELINES)
def test_spelled_names_every_option(pipeline: Pipeline) -> None:
    for made, text in zip(pipeline, (one.full_text() for one in pipeline), strict=True):
        assert all(f"{field.name.replace('_', '-')}=" in text for field in dataclasses.fields(made))


@pytest.mark.parametrize("preset", registry.PRESETS)
def test_presets_parse_back(preset: str) -> None:
    pipeline = registry.preset(preset)
    assert registry.parse(str(pipeline)) == pipeline
    assert registry.parse(pipeline.full_text()) == pipeline


def test_defaults_are_not_written() -> None:
    assert (
        str(Pipeline((Rich(), Plain(), Rich(block=(64, 32), exact=False))))
        == "rich,plain,rich{exact=false block=64x32}"
    )


@pytest.mark.parametrize("text", ["rich{bits=2,exact=false},plain", " rich { bits=2  exact=false } , plain "])
def test_spaces_and_commas_are_free(text: str) -> None:
    assert parse(text) == Pipeline((Rich(bits=2, exact=False), Plain()))


def test_quotes_hold_what_would_end_a_value() -> None:
    made = Pipeline((Rich(file='my "data", {all}.csv'), Plain()))
    assert str(made) == 'rich{file="my \\"data\\", {all}.csv"},plain' and parse(str(made)) == made
    assert parse('rich{bits="2" file="plain"}') == Pipeline((Rich(bits=2, file="plain"),))


def test_underscores_are_dashes() -> None:
    assert parse("rich{table_bits=2}") == parse("rich{table-bits=2}")


def test_empty_text_is_an_empty_pipeline() -> None:
    assert len(parse("")) == 0


@pytest.mark.parametrize(
    ("text", "points_at", "says"),
    [
        ("plain,rihc", "rihc", "did you mean 'rich'?"),
        ("plain,zzz", "zzz", "known: plain, rich"),
        ("rich{bist=4}", "bist=4}", "did you mean 'bits'?"),
        ("plain{bits=4}", "bits=4}", "'plain' has no option 'bits'"),
        ("rich{bits=four}", "four}", "'four' is no value for 'rich' bits"),
        ("rich{bits=3.5}", "3.5}", "'3.5' is no value"),
        ("rich{exact=yes}", "yes}", "expected true or false"),
        ("rich{scale=log}", "log}", "expected one of two-level, shift, float"),
        ("rich{block=64x64x64}", "64x64x64}", "is no value for 'rich' block"),
        ("plain,rich{bits=9}", "rich{bits=9}", "9 bits are too many"),
        ("rich{bits}", "bits}", "expected 'option=value'"),
        ('rich{file=a"b"}', '"b"}', "expected 'option=value'"),
        ('rich{file="\\q"}', '"\\q"}', "is no value for 'rich' file"),
        ('rich{file="a}', '{file="a}', "expected ','"),
        ("plain rich", "rich", "expected ','"),
        ("rich{bits=4", "{bits=4", "expected ','"),
        ("plain,,rich", ",rich", "expected the name of a pass"),
        ("plain,;", ";", "expected the name of a pass"),
    ],
)
def test_error_points_at_the_place(text: str, points_at: str, says: str) -> None:
    assert caret(text) == points_at
    assert says in message(text)


@pytest.mark.parametrize("word", registry.WORDS)
def test_words_stand_for_their_passes(word: str) -> None:
    """Written where a pass may stand, and printed as passes alone."""
    passes = registry.parse(word).passes
    assert passes and word not in registry.PASSES
    assert registry.parse(f"clean-up, {word} ,clean-up").passes[1:-1] == passes
    assert registry.parse(str(registry.parse(word))).passes == passes


def test_a_former_name_of_a_pass_is_a_word() -> None:
    assert registry.parse("lower-ort-cpu,clean-up") == registry.parse("lower-weights,clean-up")


def test_words_are_no_passes() -> None:
    assert (
        str(Pipeline.parse("rich,both,plain", KNOWN, {"both": "plain,rich{bits=2}"})) == "rich,plain,rich{bits=2},plain"
    )
    with pytest.raises(UsageError, match="'both' stands for several passes and takes no options") as error:
        Pipeline.parse("rich,both{bits=3}", KNOWN, {"both": "plain,rich"})
    assert error.value.where.endswith("rich,both{bits=3}\n             ^") and "plain,rich" in error.value.fix


def test_an_error_shows_its_line_alone() -> None:
    with pytest.raises(UsageError) as error:
        parse("plain,\nrich{bits=2},\nrihc")
    assert error.value.where == "the pipeline text\n    rihc\n    ^"


def test_every_preset_says_for_whom_it_is() -> None:
    assert all(preset.audience and preset.promise for preset in registry.PRESETS.values())


def test_unknown_preset() -> None:
    name = next(iter(registry.PRESETS))
    with pytest.raises(UsageError, match=f"did you mean '{name}'"):
        registry.preset(name + "x")


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "-3", -3),
        (float, "1e-05", 1e-5),
        (bool, "true", True),
        (str, "two-level", "two-level"),
        (Literal["a", "b"], "b", "b"),
        (tuple[int, int], "64x32", (64, 32)),
        (int | tuple[int, int], "64", 64),
        (int | tuple[int, int], "64x64", (64, 64)),
        (tuple[str, ...], "a|b", ("a", "b")),
    ],
)
def test_options_are_read_as_their_type(kind: object, text: str, value: object) -> None:
    assert read_option(text, kind) == value
    assert type(read_option(text, kind)) is type(value)
    assert option_text(value) == text


@pytest.mark.parametrize(
    ("kind", "text"), [(int, "x"), (int, "1.0"), (bool, "1"), (tuple[int, int], "64"), (int | tuple[int, int], "axb")]
)
def test_values_of_another_type_are_refused(kind: object, text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_option(text, kind)
