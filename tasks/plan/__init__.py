"""What a run will make and cost, before it does anything.

Imports storage_schemas and inputs. Read ``recipes.py`` first.
"""
