"""Conditions of a measurement: which images, seen how. Scores compare where they agree.

A recipe of scores names its inputs by key alone, and features are the first products to be deleted
from a store, so their conditions are recorded in the facts of all that is counted from them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

RECORDED = ("input", "image_size", "mean", "std", "precision", "dtype", "block_images")
"""Fields of a features recipe that are recorded with the counts of its features."""

COMPARED = (
    "images",
    "n_real",
    "preprocessing",
    "n_synthetic",
    "spec",
    "spec_version",
    "noise_seed",
)
"""Conditions that agree where scores of two models are compared; others are a model's own."""


def feature_conditions(features: Mapping[str, Any]) -> dict[str, Any]:
    """Return the conditions of the features of one segment.

    Parameters
    ----------
    features
        The recipe's fields as they are stored.
    """
    return {name: features[name] for name in RECORDED}


def conditions(
    real: Sequence[Mapping[str, Any]], synthetic: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Return the conditions of a layer from those of its segments, in order.

    Returns
    -------
    dict or None
        ``images`` (sha256 of the segments' digests), ``n_real``, ``n_synthetic``,
        ``preprocessing``, ``spec``, ``spec_version``, ``noise_seed``, ``image_size``, ``mean``,
        ``std``, ``precision``, ``dtype`` and ``block_images``; None where a
        segment has no conditions.
    """
    try:
        first, noise = real[0], synthetic[0]["input"]
        digests = "\n".join(segment["input"]["images"] for segment in real)
        return {
            "images": hashlib.sha256(digests.encode()).hexdigest(),
            "n_real": sum(segment["input"]["n_images"] for segment in real),
            "n_synthetic": sum(segment["input"]["n_images"] for segment in synthetic),
            "preprocessing": first["input"]["preprocessing"],
            "spec": noise["spec"],
            "spec_version": noise["spec_version"],
            "noise_seed": noise["seed"],
            **{name: first[name] for name in RECORDED if name != "input"},
        }
    except (LookupError, TypeError):
        return None


def comparison(measured: Mapping[str, Any]) -> str:
    """Return a key, 12 hex digits, that is equal where scores may be compared."""
    compared = {name: measured.get(name) for name in COMPARED}
    return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()[:12]
