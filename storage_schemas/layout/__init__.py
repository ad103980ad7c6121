"""What is stored: recipes and keys, arrays, tables, manifests.

Imports pydantic, pandas and zarr; no other wing. Read ``recipes.py`` first.
"""
