"""Care of a store: verify, repair, make room.

Imports storage_schemas, plan and stages. Read ``verify.py`` first.
"""
