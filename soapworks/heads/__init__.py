"""SOAP heads: their file, how they are applied, attached and folded.

Imports torch and safetensors alone. Read ``head.py`` first.
"""
