"""A search over ranges: at every place each form is close to the exact function, or is declined with a reason."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bct_onnx.forms.codes import Range
from bct_onnx.forms.ranges import _flat
from bct_onnx.integer import KERNELS, lookup, places
from bct_onnx.integer.kernel import Array
from tests.examples import examples

FORMS: dict[str, tuple[Callable[..., Array], str]] = {
    "IntegerGelu": (KERNELS["IntegerGelu"].reference, "Gelu"),
    "IntegerSigmoidGelu": (KERNELS["IntegerSigmoidGelu"].reference, "Gelu"),
    "IntegerSilu": (KERNELS["IntegerSilu"].reference, "Silu"),
    "IntegerSigmoid": (KERNELS["IntegerSigmoid"].reference, "Sigmoid"),
    "IntegerTanh": (KERNELS["IntegerTanh"].reference, "Tanh"),
    "gate of Gelu": (places.gate(1.702), "Gelu"),
    "gate of Silu": (places.gate(1.0), "Silu"),
}


def spread(kind: str, size: float, shift: float, seed: int) -> Array:
    """Values as they go into a function: mostly negative, tiny, huge, one-sided, far from zero, with a long tail."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(4000)
    shapes = {
        "normal": x,
        "negative": -np.abs(x) - 2,
        "positive": np.abs(x) + 1,
        "far": 0.1 * x + 10 * np.sign(shift or 1),
        "tail": x - 3 + (rng.random(4000) < 0.002) * 12,
        "two": np.where(rng.random(4000) < 0.5, x - 6, 0.3 * x),
    }
    found: Array = shapes[kind] * size + shift
    return found


def place_of(x: Array, exact: Callable[[Array], Array], function: str) -> places.Place:
    """The scales that calibration gives: inputs cut where the function is flat, results as they are."""
    low, high = min(max(float(x.min()), _flat(function, float(x.max()))), 0.0), max(float(x.max()), 0.0)
    y = exact(x)
    spans = Range(low, high), Range(min(float(y.min()), 0.0), max(float(y.max()), 0.0))
    scales: list[Array] = []
    for span in spans:
        scale, zero = span.uint8()
        scales += [np.asarray(scale), np.array(zero, np.uint8)]
    return places.place(scales, (x, np.ones_like(x)))


def kept(form: Callable[..., Array], exact: Callable[[Array], Array], place: places.Place, x: Array) -> float:
    """dB of the results of ``x``, judged without `places`: what varies of them over what is off."""
    codes = np.clip(np.rint(x / place.x_scale) + float(place.x_zero_point), 0, 255).astype(np.uint8)
    y = form(codes, place.x_scale, place.x_zero_point, place.y_scale, place.y_zero_point).astype(np.float64)
    error = (y - float(place.y_zero_point)) * float(place.y_scale) - exact(x)
    return 10 * math.log10(max(float(exact(x).var()), 1e-60) / max(float(np.square(error).mean()), 1e-60))


KINDS = ("normal", "negative", "positive", "far", "tail", "two")


@examples(40)
@given(
    st.sampled_from(sorted(FORMS)),
    st.sampled_from(KINDS),
    st.floats(-3, 1.5).map(lambda e: 10**e),
    st.floats(-9, 9),
    st.integers(0, 9),
)
def test_forms_are_close_or_declined(name: str, kind: str, size: float, shift: float, seed: int) -> None:
    form, function = FORMS[name]
    exact = lookup.FUNCTIONS[function]
    x = spread(kind, size, shift, seed)
    place = place_of(x, exact, function)
    reason = places.refusal(KERNELS[name], place, exact) if name in KERNELS else place.refusal(name, form, exact)
    best = kept(lookup_form(function), exact, place, x)
    if reason:
        assert name in reason
        return
    assert kept(form, exact, place, x) > min(19.5, best - 2)


def lookup_form(function: str) -> Callable[..., Array]:
    return lambda x, *scales: lookup.table_of(function, *scales)[x.astype(np.int32)]


@pytest.mark.parametrize(
    ("name", "low", "high", "holds"),
    [
        ("gate of Silu", -10, 10, True),
        ("gate of Silu", -10, 5, True),
        ("gate of Silu", -8, -4, False),
        ("gate of Silu", -10, 0.1, False),
        ("IntegerSilu", -8, -4, True),
        ("IntegerSilu", -12, -9, False),
        ("gate of Gelu", -4, 6, True),
        ("gate of Gelu", -4, -1, False),
        ("IntegerGelu", -4, 4, True),
        ("IntegerGelu", -4, -0.5, False),
        ("IntegerGelu", -0.01, 0.01, False),
        ("IntegerSigmoid", -8, 8, True),
        ("IntegerSigmoid", -8, -5, False),
        ("IntegerTanh", -4, 4, True),
        ("IntegerTanh", -0.01, 0.01, False),
    ],
)
def test_where_forms_hold(name: str, low: float, high: float, holds: bool) -> None:
    """Whatever is accepted loses little, and what trained models have is accepted."""
    form, function = FORMS[name]
    exact, x = lookup.FUNCTIONS[function], np.linspace(low, high, 2000)
    place = place_of(x, exact, function)
    reason = places.refusal(KERNELS[name], place, exact) if name in KERNELS else place.refusal(name, form, exact)
    assert (reason == "") == holds, reason
    assert not holds or kept(form, exact, place, x) > 20


def test_every_function_of_one_code_says_where_it_holds() -> None:
    for kernel in KERNELS.values():
        if len(kernel.inputs) == 5 and kernel.codes == ("x",):
            assert kernel.valid != type(kernel.valid)(), f"{kernel} states no range"
