"""Measures of what a head is worth: object masks, correspondence, and intervals.

Imports NumPy, SciPy and Pillow alone. Read ``saliency.py`` first; ``labelled`` reads folders of
labelled images, ``tasks`` judges tokens on them, ``summaries`` turns values of images into measures
with intervals.
"""

from soapworks.evaluation.bilateral import bilateral_solver
from soapworks.evaluation.correspondence import CropPair, correspondence, draw_crop_pair
from soapworks.evaluation.intervals import Comparison, compare, compare_each, compare_sums
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
    "compare_sums",
    "correspondence",
    "draw_crop_pair",
    "intersection_over_union",
    "max_f_measure",
    "pixel_accuracy",
    "tokencut",
]
