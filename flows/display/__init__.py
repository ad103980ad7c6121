"""What the terminal shows: progress, tables, results of a verification.

Imports tasks and rich. Read ``tables.py`` first.
"""
