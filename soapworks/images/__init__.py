"""Photographs: listing, reading, preprocessing."""
