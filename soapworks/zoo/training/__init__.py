"""The training of the zoo, by ``python -m soapworks.zoo.training.train``; not in the wheel.

Imports the zoo and torch. Read ``train.py`` first.
"""
