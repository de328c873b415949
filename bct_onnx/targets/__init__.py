"""Runtimes as data: what each takes and fuses, and whether a model is something it takes.

One TOML file per target; `Target` is what it says, `check` finds the nodes of a model that it would not take, `int8`
finds the integer weights that saturate on older CPUs.
"""

from bct_onnx.targets.files import DEFAULT, find, for_runtime, names, settings
from bct_onnx.targets.int8 import Products, products
from bct_onnx.targets.legality import Legality, Refused, check
from bct_onnx.targets.target import Form, Fusion, Refusal, Target

__all__ = [
    "DEFAULT",
    "Form",
    "Fusion",
    "Legality",
    "Products",
    "Refusal",
    "Refused",
    "Target",
    "check",
    "find",
    "for_runtime",
    "names",
    "products",
    "settings",
]
