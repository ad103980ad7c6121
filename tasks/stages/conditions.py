"""How a layer was measured: which images, seen how. Scores are compared where that agrees.

A recipe of scores names its inputs by key alone, and features are the first thing to be deleted
from a store, so what they were is noted in the facts of all that is counted from them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

NOTED = ("input", "image_size", "mean", "std", "precision", "dtype", "block_images")
"""Fields of a features recipe that are noted with what is counted from the features."""

COMPARED = (
    "images",
    "n_real",
    "preprocessing",
    "n_synthetic",
    "spec",
    "spec_version",
    "noise_seed",
)
"""What must agree where scores of two models are compared; all else is a model's own."""


def seen(features: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is noted of the features of one segment.

    Parameters
    ----------
    features
        The recipe's fields as they are stored.
    """
    return {name: features[name] for name in NOTED}


def measurement(
    real: Sequence[Mapping[str, Any]], synthetic: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Return how a layer was measured, from what is noted of its segments, in order.

    Returns
    -------
    dict or None
        ``images`` (sha256 of the segments' digests), ``n_real``, ``n_synthetic``,
        ``preprocessing``, ``spec``, ``spec_version``, ``noise_seed``, ``image_size``, ``mean``,
        ``std``, ``precision``, ``dtype`` and ``block_images``; None where nothing was noted.
    """
    try:
        first, noise = real[0], synthetic[0]["input"]
        digests = "\n".join(one["input"]["images"] for one in real)
        return {
            "images": hashlib.sha256(digests.encode()).hexdigest(),
            "n_real": sum(one["input"]["n_images"] for one in real),
            "n_synthetic": sum(one["input"]["n_images"] for one in synthetic),
            "preprocessing": first["input"]["preprocessing"],
            "spec": noise["spec"],
            "spec_version": noise["spec_version"],
            "noise_seed": noise["seed"],
            **{name: first[name] for name in NOTED if name != "input"},
        }
    except (LookupError, TypeError):
        return None


def comparison(measured: Mapping[str, Any]) -> str:
    """Return a key, 12 hex digits, that is equal where scores may be compared."""
    compared = {name: measured.get(name) for name in COMPARED}
    return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()[:12]
