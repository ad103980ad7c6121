"""Folders of labelled images: masks, label maps, classes, and plain photographs.

``read_masks``, ``read_label_maps``, ``read_classes`` and ``read_photographs`` list a folder (a path
or a URL), pair images with their labels, read every file once and return `LabelledImages`:
``.images``, ``.labels`` and ``.groups`` in one order, and ``.digest`` over their contents.
Whatever cannot be right is refused before any image goes through a network.

Imports NumPy and Pillow alone. Read ``images.py`` first.
"""

from soapworks.evaluation.labelled.images import LabelledImages, LeftOut
from soapworks.evaluation.labelled.layouts import LAYOUTS, Layout
from soapworks.evaluation.labelled.maps import LabelRule, read_label_map, read_mask
from soapworks.evaluation.labelled.readers import (
    read_classes,
    read_label_maps,
    read_masks,
    read_photographs,
)

__all__ = [
    "LAYOUTS",
    "LabelRule",
    "LabelledImages",
    "Layout",
    "LeftOut",
    "read_classes",
    "read_label_map",
    "read_label_maps",
    "read_mask",
    "read_masks",
    "read_photographs",
]
