"""Bit allocation: how much noise each tensor makes in each format, and the formats of least noise for a size.

tensors       what the passes ahead are going to store, and what all else takes
noise_table   the float model runs once per tensor; what was measured is kept in a cache
allocation    a knapsack over tensors: least noise within so many bits
search        the smallest model whose score drops by no more than so much
"""

from bct_onnx.study.allocation.allocation import Allocation, allocate
from bct_onnx.study.allocation.options import NoiseTable, Option, TensorOptions

__all__ = ["Allocation", "NoiseTable", "Option", "TensorOptions", "allocate"]
