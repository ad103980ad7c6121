"""What heads do to a real pretrained model, beside their rivals: ``make evidence``.

Imports the works. Read ``measure.py`` first.
"""
