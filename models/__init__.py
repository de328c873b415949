"""Models: a small bundled one, synthetic ones of any size, and the matrix of architectures."""
