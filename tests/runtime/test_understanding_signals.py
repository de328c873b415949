"""Pictures, sound and features are drawn as the model has them: their range, their size, their smoothness."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.small import normal
from tests.runtime.understood import kinds, sampler

PICTURE = """
    f = Cast <to = 1> (image)  {steps}
    nchw = Transpose <perm = [0, 3, 1, 2]> (u)
    c = Conv <strides = [8, 8]> (nchw, patches)
    r = Reshape (c, tokens)  e = Transpose <perm = [0, 2, 1]> (r)"""
PATCHES = {"patches": normal(8, 3, 8, 8, scale=0.1), "tokens": np.array([0, 8, -1])}


def test_a_picture_of_bytes_has_all_of_them() -> None:
    nodes = PICTURE.replace("{steps}", "u = Div (f, top)")
    one = sampler("uint8[batch,32,32,3] image", nodes, top=np.array(255, np.float32), **PATCHES)
    drawn = one.sample(8)["image"]
    assert kinds(one) == {"image": "image"} and drawn.min() < 20 and drawn.max() > 235 and drawn.std() > 30


@pytest.mark.parametrize(
    ("steps", "low", "high"),
    [
        ("u = Div (f, top)", 0, 255),
        ("d = Div (f, top)  m = Sub (d, mean)  u = Div (m, deviation)", 0, 255),
        ("d = Mul (f, two)  u = Sub (d, unit)", 0, 1),
        ("u = Identity (f)", -2, 2.45),
    ],
)
def test_colours_are_in_the_range_that_the_model_takes(steps: str, low: float, high: float) -> None:
    arrays = {
        "top": np.array(255, np.float32),
        "mean": np.array([0.485, 0.456, 0.406], np.float32),
        "deviation": np.array([0.229, 0.224, 0.225], np.float32),
        "two": np.array(2, np.float32),
    }
    arrays = {name: array for name, array in arrays.items() if f"{name})" in steps}
    drawn = sampler("float[b,32,32,3] image", PICTURE.replace("{steps}", steps), **arrays, **PATCHES).sample(8)["image"]
    assert (
        low - 1e-3 <= drawn.min() < low + 0.2 * (high - low) and high - 0.2 * (high - low) < drawn.max() <= high + 1e-3
    )


LINE = "c = Conv <strides = [4, 4]> (x, patches)  r = Reshape (c, tokens)  e = Transpose <perm = [0, 2, 1]> (r)"


def test_a_picture_of_any_size_is_small() -> None:
    arrays = {"patches": normal(8, 3, 4, 4, scale=0.1), "tokens": np.array([0, 8, -1])}
    one = sampler("float[b,3,height,width] x", LINE, **arrays)
    assert one.sample(2)["x"].shape == (2, 3, 64, 64)
    table = normal(1, 24 * 24, 8)
    fixed = sampler(
        "float[b,3,h,w] x", LINE.replace("e = T", "e0 = T") + " e = Add (e0, places)", places=table, **arrays
    )
    assert fixed.sample(2)["x"].shape == (2, 3, 96, 96)


def test_neighbours_in_pictures_and_sound_are_alike() -> None:
    arrays = {"patches": normal(8, 3, 4, 4, scale=0.1), "tokens": np.array([0, 8, -1])}
    drawn = sampler("float[b,3,h,w] x", LINE, **arrays).sample(3)["x"]
    assert np.abs(np.diff(drawn, axis=3)).mean() < 0.5 * np.abs(drawn - drawn[:, :, :, ::-1]).mean()
    nodes = "u = Unsqueeze (x, ax1)  c = Conv <strides = [16]> (u, wave)  e = Transpose <perm = [0, 2, 1]> (c)"
    sound = sampler("float[b,samples] x", nodes, wave=normal(8, 1, 16, scale=0.2))
    heard = sound.sample(2)["x"]
    assert kinds(sound) == {"x": "audio"} and np.corrcoef(heard[0, 1:], heard[0, :-1])[0, 1] > 0.5


def test_a_signal_undoes_its_normalization() -> None:
    nodes = "a = Add (x, four)  e = Mul (a, part)"
    arrays = {"four": np.array(4, np.float32), "part": np.array(0.4, np.float32)}
    drawn = sampler("float[b,time,8] x", nodes, **arrays).sample(8, 16)["x"]
    assert abs(drawn.mean() + 4) < 1 and 1.5 < drawn.std() < 6


def test_samples_of_the_check_are_others() -> None:
    one = sampler("float[b,time,8] x", "e = Identity (x)")
    first, second = (one.sample(4, 16, family=family)["x"] for family in ("calibrate", "check"))
    assert first.shape == second.shape and not np.array_equal(first[2], second[2])
