"""Commands that look at what a store holds and change no product.

May import everything below ``flows``; loaded by name from ``flows/cli.py``. First: ``inspect``.
"""
