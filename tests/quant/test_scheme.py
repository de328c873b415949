from __future__ import annotations

from typing import Any

import pytest

from bct_onnx.errors import UsageError
from bct_onnx.quant import Scheme


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"bits": 7}, "2, 3, 4, 5, 6, 8"),
        ({"bits": True}, "2, 3, 4, 5, 6, 8"),
        ({"scale": "fp8"}, "two-level, shift, float16, float32"),
        ({"search": "best"}, "mse, max"),
        ({"block": 0}, "from 1"),
        ({"block": 2.0}, "from 1"),
        ({"block": (64, 0)}, "from 1"),
        ({"block": (4, 4, 4)}, "from 1"),
        ({"block": ()}, "from 1"),
        ({"bits": 8, "symmetric": False}, "symmetric"),
        ({"scale": "shift", "symmetric": False}, "symmetric"),
    ],
)
def test_what_is_not_allowed_is_refused_with_what_is(options: dict[str, Any], names: str) -> None:
    with pytest.raises(UsageError, match=r"is not allowed|do not fit") as caught:
        Scheme(**{"bits": 4, "block": 32, **options})
    assert names in caught.value.fix


@pytest.mark.parametrize(
    ("scheme", "text"),
    [
        (Scheme(4, 32), "int4 b32 two-level"),
        (Scheme(4, 32, signed_scales=True), "int4 b32 two-level signed"),
        (Scheme(8, 32, signed_scales=True), "int8 b32 two-level"),
        (Scheme(4, (64, 64), scale="shift", search="max"), "int4 b64x64 shift max"),
        (Scheme(3, 128, symmetric=False, reduce_range=False), "uint3 b128 two-level full-range"),
        (Scheme(2, 16, scale="float16", reduce_range=False), "int2 b16 float16"),
    ],
)
def test_text(scheme: Scheme, text: str) -> None:
    assert str(scheme) == text


@pytest.mark.parametrize(
    ("scheme", "codes", "multipliers"),
    [
        (Scheme(4, 32), (-8, 7), (1, 8)),
        (Scheme(4, 32, reduce_range=False), (-8, 7), (1, 15)),
        (Scheme(4, 32, signed_scales=True), (-8, 7), (-8, 7)),
        (Scheme(4, 32, scale="shift", reduce_range=False), (-8, 7), (1, 8)),
        (Scheme(4, 32, symmetric=False), (0, 15), (1, 4)),
        (Scheme(3, 32), (-4, 3), (1, 15)),
        (Scheme(2, 32, symmetric=False), (0, 3), (1, 15)),
        (Scheme(8, 32), (-64, 64), (1, 1)),
        (Scheme(8, 32, reduce_range=False), (-127, 127), (1, 1)),
        (Scheme(8, 32, scale="float16"), (-128, 127), (1, 1)),
        (Scheme(8, 32, symmetric=False, scale="float16"), (0, 255), (1, 1)),
    ],
)
def test_ranges(scheme: Scheme, codes: tuple[int, int], multipliers: tuple[int, int]) -> None:
    assert (scheme.code_min, scheme.code_max) == codes
    assert (scheme.multiplier_min, scheme.multiplier_max) == multipliers


def test_stored_bits_per_weight() -> None:
    assert Scheme(4, 32, scale="float16").bits_per_weight(4096, 64) == 4.5
    assert Scheme(4, 32, scale="float32").bits_per_weight(4096, 64) == 5.0
    assert Scheme(4, 32).bits_per_weight(4096, 64) == 4 + 4 / 32 + 16 / 4096
    assert Scheme(4, 32, symmetric=False).bits_per_weight(4096, 64) == 4 + 8 / 32 + 16 / 4096
    assert Scheme(4, (64, 64), scale="shift").bits_per_weight(4096, 64) == 4 + 4 / 4096 + 16 / (4096 * 64)
    assert Scheme(8, 32).bits_per_weight(4096, 64) == 8 + 16 / 4096
    assert Scheme(3, 32).nbytes(9, 2) == 6 * 2 + 1 + 2 * 2
