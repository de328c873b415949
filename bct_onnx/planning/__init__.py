"""Bit allocation: measure how much noise each tensor makes in each format, and choose formats for a size.

measure  the float model runs once per tensor; what was measured is kept in a cache
plan     a knapsack over tensors: least noise within so many bits; the result is a recipe
search   the smallest model whose score drops by no more than so much
"""

from bct_onnx.planning.measured import Item, Measured, Option
from bct_onnx.planning.plan import Plan, plan

__all__ = ["Item", "Measured", "Option", "Plan", "plan"]
