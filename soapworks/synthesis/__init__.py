"""Synthetic, non-semantic images, each a function of (spec, seed, number) alone.

Imports NumPy, SciPy and, for tensors, torch. Read ``images.py`` first.
"""
