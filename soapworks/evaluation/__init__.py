"""Measures of what a head is worth: object masks, correspondence, and intervals.

Imports NumPy and SciPy alone. Read ``saliency.py`` first.
"""

from soapworks.evaluation.bilateral import bilateral_solver
from soapworks.evaluation.correspondence import CropPair, correspondence, draw_crop_pair
from soapworks.evaluation.intervals import Comparison, compare, compare_each
from soapworks.evaluation.measures import (
    intersection_over_union,
    max_f_measure,
    pixel_accuracy,
)
from soapworks.evaluation.saliency import Saliency, tokencut

__all__ = [
    "Comparison",
    "CropPair",
    "Saliency",
    "bilateral_solver",
    "compare",
    "compare_each",
    "correspondence",
    "draw_crop_pair",
    "intersection_over_union",
    "max_f_measure",
    "pixel_accuracy",
    "tokencut",
]
