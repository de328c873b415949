import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bct_onnx.integer import KERNELS, Kernel
from bct_onnx.integer.softmax import exact_softmax, shift_softmax_bound, softmax_bound
from tests.examples import examples
from tests.integer import harness
from tests.integer.harness import CODE_TYPES, SCALES, Array, every_code, random_codes, scale

SAME = {
    "IntegerSoftmax": ("IntegerShares/one",),
    "IntegerShiftSoftmax": ("IntegerShares/one", "IntegerShiftSoftmax/unit", "IntegerShiftSoftmax/dropped"),
}
NAMES = ("IntegerSoftmax", "IntegerShiftSoftmax", "IntegerMaskedSoftmax")


def feeds(
    kernel: Kernel, x: Array, x_scale: Array, y_scale: float = 1 / 255, zero: int = 0, **more: Array
) -> dict[str, Array]:
    given = {
        "x": x,
        "x_scale": x_scale,
        "x_zero_point": np.array(7, x.dtype),
        "keep": np.ones(x.shape, np.uint8),
        "y_scale": scale(y_scale),
        "y_zero_point": np.array(zero, np.uint8),
        **more,
    }
    return {name: given[name] for name in kernel.inputs}


def error(given: dict[str, Array], y: Array, keep: Array | bool = True) -> float:
    real = given["x_scale"].astype(np.float64) * given["x"]
    exact = exact_softmax(real, keep)
    found = (y.astype(np.float64) - float(given["y_zero_point"])) * float(given["y_scale"])
    return float(np.abs(found - exact).max())


def bound(kernel: Kernel, given: dict[str, Array]) -> float:
    formula = shift_softmax_bound if kernel.name == "IntegerShiftSoftmax" else softmax_bound
    n = given["x"].shape[-1]
    return float(np.max(formula(given["x_scale"], given["y_scale"], n))) + 1e-9


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", CODE_TYPES)
def test_engines_agree_and_the_bound_holds(name: str, dtype: type) -> None:
    kernel = KERNELS[name]
    for step in (*SCALES, 1e-4, 30.0):
        for rows in (every_code(dtype), random_codes(5, 19, dtype=dtype)):
            given = feeds(kernel, rows, scale(step))
            y = harness.agree(kernel, given, static=True, levels=("all",))
            if step >= 1e-3:
                assert error(given, y) <= bound(kernel, given)


@pytest.mark.parametrize("name", NAMES)
def test_scale_per_row(name: str) -> None:
    kernel = KERNELS[name]
    given = feeds(kernel, random_codes(4, 33), scale(0.01, 0.05, 0.2, 1.0), 1 / 256, 0)
    y = harness.agree(kernel, given)
    assert error(given, y) <= bound(kernel, given)
    for row in range(4):
        alone = {**given, "x": given["x"][row : row + 1], "x_scale": given["x_scale"][row]}
        if "keep" in alone:
            alone["keep"] = given["keep"][row : row + 1]
        np.testing.assert_array_equal(harness.refer(kernel, alone)[0], y[row])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", CODE_TYPES)
def test_two_elements_of_every_difference(name: str, dtype: type) -> None:
    codes = every_code(dtype)[0]
    pairs = np.stack([codes, np.full(256, codes[-1])], -1)
    for step in SCALES:
        given = feeds(KERNELS[name], pairs, scale(step), 1 / 256, 0)
        assert error(given, harness.refer(KERNELS[name], given)) <= max(bound(KERNELS[name], given), 1 / 256)


@pytest.mark.parametrize("name", NAMES)
def test_long_rows_do_not_overflow(name: str) -> None:
    kernel = KERNELS[name]
    equal = np.full((1, 8192), 255, np.uint8)
    peak = np.zeros((1, 8192), np.uint8)
    peak[0, 5000] = 255
    just_too_small = np.full((1, 8192), 255 - 125, np.uint8)
    just_too_small[0, 0] = 255
    for x in (equal, peak, just_too_small, random_codes(1, 4096)):
        for step in (2e-4, 1e-3, 0.1, 4.0):
            given = feeds(kernel, x, scale(step), 1 / 256, 255)
            harness.agree(kernel, given, levels=("all",))
            given["y_zero_point"] = np.array(0, np.uint8)
            assert error(given, harness.refer(kernel, given)) <= max(bound(kernel, given), 1 / 256)


@pytest.mark.parametrize("dtype", CODE_TYPES)
@pytest.mark.parametrize("step", [1e-4, 1e-3, 0.05, 1.0, 40.0])
def test_masked_columns_have_no_influence(dtype: type, step: float) -> None:
    kernel, plain = KERNELS["IntegerMaskedSoftmax"], KERNELS["IntegerSoftmax"]
    few, extreme = random_codes(2, 3, 20, dtype=dtype), every_code(dtype, 6).reshape(2, 3, 256)
    keep = np.concatenate([np.ones((2, 1, 20), np.uint8), np.zeros((2, 1, 256), np.uint8)], -1)
    alone = harness.agree(plain, feeds(plain, few, scale(step)), levels=("all",))
    padded = harness.agree(kernel, feeds(kernel, np.concatenate([few, extreme], -1), scale(step), keep=keep))
    np.testing.assert_array_equal(padded[..., :20], alone)
    assert not padded[..., 20:].any()


def test_rows_that_keep_nothing_give_the_zero_point() -> None:
    kernel = KERNELS["IntegerMaskedSoftmax"]
    for zero in (0, 9):
        for dtype in CODE_TYPES:
            given = feeds(kernel, every_code(dtype, 2), scale(1e-3), 1 / 255, zero, keep=np.array([[0], [1]], np.uint8))
            y = harness.agree(kernel, given, levels=("all",))
            assert np.all(y[0] == zero)
            assert np.any(y[1] != zero)


@examples(40)
@given(data=st.data(), step=st.floats(2e-4, 20), n=st.integers(1, 40))
def test_mask_any(data: st.DataObject, step: float, n: int) -> None:
    kernel = KERNELS["IntegerMaskedSoftmax"]
    codes = st.lists(st.integers(0, 255), min_size=n, max_size=n)
    keep = np.array([data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))], np.uint8)
    given = feeds(kernel, np.array([data.draw(codes)], np.uint8), scale(step), keep=keep)
    y = harness.refer(kernel, given)
    assert not y[keep == 0].any()
    assert error(given, y, keep != 0) <= bound(kernel, given)


@pytest.mark.parametrize("name", NAMES)
def test_integer_between_codes_and_codes(name: str) -> None:
    harness.integer(KERNELS[name])


@harness.ZERO_DIVISOR
@pytest.mark.parametrize("name", NAMES)
def test_wrong_constants_are_noticed(name: str) -> None:
    kernel = KERNELS[name]
    keep = np.array([[1], [0], [1]], np.uint8) * np.ones((3, 256), np.uint8)
    keep[2, ::3] = 0
    low = np.array([[-128, -125, -110], [-128] * 3, [-100, -101, -102]], np.int8)
    cases = [
        feeds(kernel, x, scale(step), y_scale, zero, keep=keep[:, : x.shape[-1]])
        for step, y_scale, zero in ((0.013, 1 / 255, 0), (0.3, 1 / 400, 200), (1e-5, 1 / 400, 0), (30.0, 1 / 255, 90))
        for x in (random_codes(3, 9), low)
    ]
    # -1 stays as it is; I-ViT's exponential is finer than needed; no sum is 0 without a mask.
    same = {f"{name}/last", "IntegerShares/last", *SAME.get(name, ())}
    harness.wrong_constants_are_noticed(kernel, cases, same)
