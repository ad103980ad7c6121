"""Forward passes over blocks of images, here or on the workers of a cluster.

Imports soapworks, storage_schemas and executors. Read ``local.py`` first.
"""
