"""Block formats in numpy alone: schemes, blocks, scales and packing. No graph in here."""
