"""Everything that executes a model in ONNX Runtime: sessions, input feeds, parity, latency and operator profiles."""
