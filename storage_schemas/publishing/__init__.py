"""How a product comes to be: attempts, parts, digests, the completion record.

Imports layout and locations. Read ``products.py`` first.
"""
