"""Images: listing, reading, preprocessing.

Imports numpy, Pillow, fsspec (lazily). Read ``listing.py`` first, then ``reading.py``.
"""
