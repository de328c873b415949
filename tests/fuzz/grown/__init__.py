"""Whole small models of the kinds that people export, grown from a seed together with inputs that make sense to them.

Where `tests.fuzz.models` starts from a few models and damages them, here every model is sound and no two are alike:
tokens, bytes, pictures, spectra or waves come in under odd names; masks come from inputs of either polarity, from
lengths, from the tokens or from positions; weights lie in all places. What grows a part knows what it means, so that a
model comes with samples that owe nothing to how the product understands inputs.
"""

from __future__ import annotations

from tests.fuzz.grown.model import Grown, GrownCase, grow

__all__ = ["Grown", "GrownCase", "grow"]
