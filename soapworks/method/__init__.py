"""The method on plain arrays: moments, components, responses, scores, weights.

Imports NumPy, SciPy and, for tensors, torch. Read ``scores.py`` first;
docs/method.md defines what is computed.
"""
