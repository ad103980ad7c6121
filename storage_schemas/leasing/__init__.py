"""Who makes what now: leases, heartbeats, and what nobody goes on with.

Imports locations. Read ``leases.py`` first.
"""
