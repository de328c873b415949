"""bct-onnx: blockwise compression of exported transformers, as a sequence of ONNX graph passes."""

__version__ = "0.1.0"
