"""Where it is stored: a disk or a bucket, by URL, with atomic primitives.

Imports fsspec; no other wing. Read ``location.py`` first.
"""
