"""Recipes: a run as a file, and the one way to choose among preset, passes and recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from bct_onnx import recipe, registry
from bct_onnx.errors import UsageError


@pytest.fixture
def write(tmp_path: Path) -> Path:
    return tmp_path / "recipe.toml"


def test_defaults() -> None:
    assert recipe.choose() == (registry.preset(next(iter(registry.PRESETS))), "ort-cpu")
    assert recipe.choose(preset="w8a8", target="portable") == (registry.preset("w8a8"), "portable")
    assert recipe.choose(passes="fuse-gelu") == (registry.parse("fuse-gelu"), "ort-cpu")


def test_an_empty_recipe_is_the_default(write: Path) -> None:
    write.write_text("", encoding="utf-8")
    assert recipe.choose(recipe=write) == recipe.choose()


def test_the_command_line_wins_over_the_recipe_s_target(write: Path) -> None:
    write.write_text('target = "portable"', encoding="utf-8")
    assert recipe.choose(recipe=write)[1] == "portable"
    assert recipe.choose(recipe=write, target="ort-cpu")[1] == "ort-cpu"


def test_options_change_only_what_they_name(write: Path) -> None:
    write.write_text(
        """
        preset = "w3a8"
        [options.quantize-weights]
        scale = "shift"
        block = [64, 64]
        reduce_range = false
        keep = ["a*", "b"]
        [options.smooth]
        strength = 0.25
        """,
        encoding="utf-8",
    )
    pipeline, _ = recipe.read(write)
    before = {one.name: dict(one.options(defaults=True)) for one in registry.preset("w3a8")}
    after = {one.name: dict(one.options(defaults=True)) for one in pipeline}
    before["quantize-weights"] |= {"scale": "shift", "block": (64, 64), "reduce_range": False, "keep": ("a*", "b")}
    before["smooth"] |= {"strength": 0.25}
    assert after == before


def test_options_of_what_the_target_appends(write: Path) -> None:
    write.write_text('preset = "fast"\n[options.lower-norms]\nform = "integer"', encoding="utf-8")
    pipeline, target = recipe.choose(recipe=write)
    assert str(registry.complete(pipeline, target)) == str(registry.complete("fast", "ort-cpu")).replace(
        "lower-norms", "lower-norms{form=integer}"
    )
    with pytest.raises(UsageError, match="unknown pass of this pipeline 'lower-norms'"):
        recipe.choose(recipe=write, target="openvino")


def test_passes_with_options(write: Path) -> None:
    write.write_text('passes = "quantize-weights{block=16}"\n[options.quantize-weights]\nbits = 8', encoding="utf-8")
    assert str(recipe.read(write)[0]) == "quantize-weights{bits=8 block=16}"


def test_values_hold_spaces_and_braces(write: Path) -> None:
    write.write_text('preset = "w4"\n[options.quantize-weights]\nkeep = ["a b=1", "{c}"]', encoding="utf-8")
    (one,) = (one for one in recipe.read(write)[0] if one.name == "quantize-weights")
    assert dict(one.options(defaults=False)) == {"keep": ("a b=1", "{c}")}


def test_preset_and_passes_do_not_go_together(write: Path) -> None:
    write.write_text('passes = "fuse-gelu"\npreset = "w4a8"', encoding="utf-8")
    with pytest.raises(UsageError, match="either preset or passes"):
        recipe.read(write)
    with pytest.raises(UsageError, match="--passes and --recipe"):
        recipe.choose(passes="fuse-gelu", recipe=write)


def test_options_alone_go_with_any_preset(write: Path) -> None:
    write.write_text("[options.quantize-weights]\nbits = 8", encoding="utf-8")
    pipeline, target = recipe.choose(preset="w4", recipe=write)
    (one,) = (one for one in pipeline if one.name == "quantize-weights")
    assert (dict(one.options(defaults=False)), target) == ({"bits": 8}, "ort-cpu")
    for text in ('preset = "fast"', 'passes = "fuse-gelu"'):
        write.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match="--preset and this recipe"):
            recipe.choose(preset="w4", recipe=write)


def test_data_goes_to_every_calibrate_pass() -> None:
    pipeline = registry.parse("calibrate{samples=3},smooth,calibrate{data=b.npz column=x}")
    assert str(recipe.with_data(pipeline, data=Path("my a.npz"), tokenizer=None, column=None)) == (
        'calibrate{data="my a.npz" samples=3},smooth,calibrate{data="my a.npz" column=x}'
    )
    assert recipe.with_data(pipeline, data=None) == pipeline
    assert recipe.with_data(registry.preset("w4"), data=None) == registry.preset("w4")
    with pytest.raises(UsageError, match="no pass of this pipeline takes calibration data"):
        recipe.with_data(registry.preset("w4"), data="a.npz")
