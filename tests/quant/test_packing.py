from __future__ import annotations

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import onnx.numpy_helper
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from bct_onnx.quant import pack, packed_length, packed_nbytes, unpack
from tests.quant.strategies import Matrix


@given(st.data())
def test_unpack_is_the_inverse_of_pack(data: st.DataObject) -> None:
    bits = data.draw(st.sampled_from((2, 3, 4, 8)))
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=20))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    codes = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 2**bits - 1)))
    packed = pack(codes, bits, axis=axis)
    assert packed.shape[axis] == packed_length(shape[axis], bits)
    np.testing.assert_array_equal(unpack(packed, bits, shape[axis], axis=axis), codes)


@pytest.mark.parametrize(
    ("bits", "kind"), [(4, ml_dtypes.uint4), (4, ml_dtypes.int4), (2, ml_dtypes.uint2), (2, ml_dtypes.int2)]
)
@pytest.mark.parametrize("count", [1, 7, 16, 33])
def test_bytes_are_those_of_onnx(bits: int, kind: type, count: int) -> None:
    codes = np.random.default_rng(count).integers(0, 2**bits, count, dtype=np.uint8)
    signed = codes.astype(np.int8) - (codes >= 2 ** (bits - 1)).astype(np.int8) * 2**bits
    stored = onnx.numpy_helper.from_array((signed if "u" not in kind.__name__ else codes).astype(kind), "codes")
    assert pack(codes, bits).tobytes() == stored.raw_data
    assert packed_nbytes((count,), bits) == len(stored.raw_data)


def test_three_bits_lie_in_planes() -> None:
    codes = np.array([0, 1, 2, 3, 4, 5, 6, 7, 7], np.uint8)
    assert pack(codes, 3).tolist() == [0b10101010, 0b11001100, 0b11110000, 1, 1, 1]


def test_three_bits_unpack_by_shifts_and_masks_as_documented() -> None:
    codes: Matrix = np.random.default_rng(0).integers(0, 8, (24, 5), dtype=np.uint8)
    groups = pack(codes, 3, axis=0).reshape(3, 3, 1, 5)
    bits = groups >> np.arange(8, dtype=np.uint8).reshape(1, 1, 8, 1) & 1
    total = bits[:, 0] | bits[:, 1] << 1 | bits[:, 2] << 2
    np.testing.assert_array_equal(total.reshape(24, 5), codes)


def test_a_code_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="code 8 does not fit 3 bits"):
        pack(np.array([8], np.uint8), 3)
    with pytest.raises(ValueError, match="5 bits"):
        pack(np.array([8], np.uint8), 5)
