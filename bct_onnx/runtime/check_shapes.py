"""Of which sizes the samples are that a result is checked on."""

SHAPES = ((2, 24), (1, 7), (3, 48))
"""Batch and sequence of the samples that outputs are compared on; shorter rows are padded."""

SINGLE = ((1, 24), (1, 7), (1, 48))
"""The same where the input model runs no more than one text at a time."""

OF_SIGNALS, SINGLE_SIGNAL = ((2, 24), (1, 7)), ((1, 24), (1, 7))
"""The same of pictures and sound: one sample has as many positions as many texts, and takes as long."""

SOURCE = "seeded random inputs"

SEED = 1 << 20
"""Of the first sample; calibration counts from 0, so that what is checked has calibrated nothing."""
