"""What a run begins with: the identity of a checkpoint, the manifest of images.

Imports soapworks and storage_schemas. Read ``images.py`` first.
"""
