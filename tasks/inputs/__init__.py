"""What a run begins with: the identity of a checkpoint, the manifest of photographs.

Imports soapworks and storage_schemas. Read ``photographs.py`` first.
"""
