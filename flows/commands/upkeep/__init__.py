"""Commands that keep a store and its surroundings in order.

May import everything below ``flows``; loaded by name from ``flows/cli.py``. First: ``gc``.
"""
