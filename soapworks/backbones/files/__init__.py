"""Files of checkpoints: where they are, how they are read, which part is the backbone.

Nothing here knows an architecture. Start with ``reading.py``; ``names.py`` needs no torch.
"""
