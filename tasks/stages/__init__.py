"""A module per stage: extract, fit, respond, score, export.

Imports passes, executors and storage_schemas. Read ``extract.py`` first.
"""
