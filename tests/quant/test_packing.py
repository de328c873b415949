from __future__ import annotations

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx.numpy_helper
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from bct_onnx.quant import Scheme, pack, packed_length, packed_nbytes, quantize, unpack
from bct_onnx.quant.packing import pack_nibbles
from tests.quant.strategies import Matrix, normal


@given(st.data())
def test_unpack_is_the_inverse_of_pack(data: st.DataObject) -> None:
    bits = data.draw(st.sampled_from((2, 3, 4, 5, 6, 8)))
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=20))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    codes = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 2**bits - 1)))
    packed = pack(codes, bits, axis=axis)
    assert packed.shape[axis] == packed_length(shape[axis], bits)
    np.testing.assert_array_equal(unpack(packed, bits, shape[axis], axis=axis), codes)


@given(hnp.arrays(np.int8, hnp.array_shapes(min_dims=1, max_dims=2, max_side=20), elements=st.integers(-8, 7)))
def test_nibbles_are_packed_as_others_are(codes: npt.NDArray[np.int8]) -> None:
    for flip in (0, 8):
        want = pack((codes + np.int8(flip)).view(np.uint8) & np.uint8(15), 4, axis=-1)
        np.testing.assert_array_equal(pack_nibbles(codes, flip), want)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("flip", [0, 8])
def test_blocks_can_be_packed(symmetric: bool, axis: int, flip: int) -> None:
    blocks = quantize(normal(64, 6), Scheme(4, 16, symmetric=symmetric))
    packed = blocks.pack(flip, axis)
    assert 2 * packed.codes.size == blocks.codes.size and packed.codes.shape[1 - axis] == blocks.shape[1 - axis]
    np.testing.assert_array_equal(packed.int8(), blocks.int8())
    np.testing.assert_array_equal(packed.dequantize(), blocks.dequantize())
    odd = quantize(normal(33, 5), Scheme(4, 16, symmetric=symmetric))
    assert odd.pack(flip, axis) is odd


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


def test_five_bits_lie_in_slices_one_behind_the_other() -> None:
    codes = np.array([0x01, 0x12, 0x03], np.uint8)
    assert pack(codes, 5).tolist() == [0x21, 0x03, 0b010] and packed_nbytes((3, 4), 5) == 12


def test_a_code_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="code 8 does not fit 3 bits"):
        pack(np.array([8], np.uint8), 3)
    with pytest.raises(ValueError, match="7 bits"):
        pack(np.array([8], np.uint8), 7)
