"""Samples of a model's inputs that make sense to the model: what each input means, and values of it."""

from bct_onnx.runtime.understanding.sampler import Sampler
from bct_onnx.runtime.understanding.start import RunsOnNothingError

__all__ = ["RunsOnNothingError", "Sampler"]
