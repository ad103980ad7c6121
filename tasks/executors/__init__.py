"""Where calls are computed: on threads of this process or on a Dask cluster.

Imports storage_schemas, Dask and distributed; no other wing of tasks. Read ``threads.py`` first.
"""
