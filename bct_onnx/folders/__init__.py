"""Model folders: what clients load is not one file but models, configurations and a tokenizer in places they know.

    source = read(folder)            what lies there, and in which layout
    rewrite_folder(folder, out)      the same for the client, with compressed models and a model card

A layout says where a client looks for its models. One folder can be written in another layout than it was read in.
"""

from bct_onnx.folders.layouts import LAYOUTS, Layout
from bct_onnx.folders.reading import ModelFolder, read
from bct_onnx.folders.writing import Rewritten, rewrite_folder

__all__ = ["LAYOUTS", "Layout", "ModelFolder", "Rewritten", "read", "rewrite_folder"]
