"""Property tests that give the same verdict on every run and on slow machines."""

from hypothesis import settings

settings.register_profile("bct", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("bct")
