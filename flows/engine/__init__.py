"""Prefect for one command: its server, settings, log, artifacts and limits.

Imports tasks and Prefect. Read ``session.py`` first.
"""
