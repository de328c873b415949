"""Real ONNX files of public packages through every preset and target, judged by ONNX Runtime on inputs of their kind.

``python -m models.real_files --cache FOLDER`` makes the table of ``models/results/real-files.md``.
"""
