"""A folder under watch: its listing, the rules, the state of each checkpoint.

Imports storage_schemas, plan and reports. Read ``rules.py`` first.
"""
