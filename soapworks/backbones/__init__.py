"""Backbones and layer taps."""
