"""The matrix of architectures: tiny models of many families x exporters x types, rewritten, run and compared.

``python -m models.matrix`` makes the table of models/README.md. It needs the extra ``bct-onnx[export]``.
"""
