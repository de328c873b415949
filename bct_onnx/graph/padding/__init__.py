"""Padding: which part of a graph works on each token by itself, and which part lets tokens see each other.

`layout` finds both, `packing` writes the first so that it runs on the real tokens alone.
"""
