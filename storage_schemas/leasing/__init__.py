"""Leases: which process makes which product now; heartbeats; orphaned files.

Imports locations. Read ``leases.py`` first.
"""
