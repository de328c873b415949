"""Fuzzing: damaged and odd models through loading and every pass; `python -m tests.fuzz --help`."""
