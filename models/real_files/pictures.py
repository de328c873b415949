"""Pictures that models of text and of scenes were made for: rendered lines, drawn scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Feeds = dict[str, npt.NDArray[Any]]
Outputs = list[npt.NDArray[Any]]

_LINES = ("Invoice 2026-114", "Total: 1,284.50", "street", "Right on what strangers bring", "KX7pQ")
_SCENE = (128, 128)


def lines_32(model: Path) -> list[Feeds]:
    """Lines of text, uint8 pictures of 32 x 128 as floats in -1..1 [1, 3, 32, 128]."""
    return [{"image": _line(text, 32, 128)} for text in _LINES]


def lines_48(model: Path) -> list[Feeds]:
    """Lines of text 48 high and as wide as they come, floats in -1..1 [1, 3, 48, width]."""
    return [{"x": _line(text, 48, 0)} for text in _LINES]


def _line(text: str, height: int, width: int) -> npt.NDArray[np.float32]:
    """Dark letters on a light, unevenly lit ground, with a little noise as a camera makes it."""
    font = ImageFont.load_default(size=34)
    left, top, right, bottom = font.getbbox(text)
    picture = Image.new("L", (int(right - left) + 24, 56), 235)
    ImageDraw.Draw(picture).text((12 - left, 28 - (top + bottom) / 2), text, fill=40, font=font)
    wide = width or round(picture.width * height / picture.height)
    pixels = np.asarray(picture.resize((wide, height), Image.Resampling.BILINEAR), np.float64)
    pixels = pixels + np.linspace(-12, 12, wide) + np.random.default_rng(len(text)).normal(0, 3, pixels.shape)
    scaled = (np.clip(pixels, 0, 255) / 255 - 0.5) / 0.5
    return np.repeat(scaled[None, None], 3, 1).astype(np.float32)


def pictures(model: Path) -> list[Feeds]:
    """Scenes of a street, RGB with the mean and the deviation of photographs taken away [1, 3, 128, 128]."""
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    deviation = np.array([0.229, 0.224, 0.225], np.float32)
    scenes = [np.asarray(_scene(seed), np.float32) / 255 for seed in range(6)]
    return [{"image": ((one - mean) / deviation).transpose(2, 0, 1)[None]} for one in scenes]


def _scene(seed: int) -> Image.Image:
    """Sky, houses and a road; a crossing, a traffic light, a bus or a hydrant on it."""
    rng = np.random.default_rng(seed)
    shade = np.linspace((150, 190, 235), (90, 90, 95), _SCENE[0])[:, None]
    ground = np.broadcast_to(shade, (*_SCENE, 3)) + rng.normal(0, 6, (*_SCENE, 3))
    picture = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for left in range(0, 128, 32):
        draw.rectangle((left, int(rng.integers(20, 50)), left + 28, 75), fill=tuple(rng.integers(80, 190, 3).tolist()))
    thing = seed % 4
    if thing == 0:
        for left in range(4, 128, 18):
            draw.polygon([(left, 122), (left + 10, 122), (left + 14, 92), (left + 6, 92)], fill=(235, 235, 230))
    elif thing == 1:
        draw.rectangle((54, 10, 78, 84), fill=(25, 25, 25))
        for top, colour in ((14, (230, 40, 30)), (38, (90, 80, 20)), (62, (20, 80, 30))):
            draw.ellipse((57, top, 75, top + 18), fill=colour)
    elif thing == 2:
        draw.rounded_rectangle((18, 48, 112, 100), 8, fill=(225, 170, 30))
        for left in range(24, 104, 16):
            draw.rectangle((left, 54, left + 12, 70), fill=(40, 60, 80))
        for left in (30, 86):
            draw.ellipse((left, 92, left + 16, 108), fill=(20, 20, 20))
    else:
        draw.rounded_rectangle((54, 62, 76, 112), 6, fill=(200, 40, 35))
        draw.ellipse((52, 50, 78, 76), fill=(205, 50, 40))
        draw.rectangle((46, 78, 84, 88), fill=(190, 35, 30))
    return picture
