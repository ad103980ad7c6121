"""Pages, charts and tables made from what a store holds.

Imports storage_schemas, plan and stages. Read ``summary.py`` first.
"""
