"""Block formats in numpy alone: schemes, blocks, scales and packing. No graph in here."""

from bct_onnx.quant.blocks import Blocks, quantize
from bct_onnx.quant.error import Error, sqnr_db
from bct_onnx.quant.packing import pack, packed_length, packed_nbytes, unpack
from bct_onnx.quant.scheme import Scheme
from bct_onnx.quant.sizes import SizeSummary, stored_bits

__all__ = [
    "Blocks",
    "Error",
    "Scheme",
    "SizeSummary",
    "pack",
    "packed_length",
    "packed_nbytes",
    "quantize",
    "sqnr_db",
    "stored_bits",
    "unpack",
]
