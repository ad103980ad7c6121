"""Check the arguments of synthetic images once, at the door, and make a recipe of them."""

import hashlib
import operator

import numpy as np
from numpy.typing import ArrayLike

from soapworks.errors import InputError
from soapworks.synthesis._noise import NoiseRecipe

SPECS: dict[str, int] = {"authors": 1, "balanced": 1}
"""Version of each spec; Section 1 of docs/method.md. ``balanced`` differs in its gradients."""

_MAX_SEED = 2**63 - 1


def checked_recipe(spec: str, seed: int, size: int) -> NoiseRecipe:
    """Return the recipe of `synthesize`'s arguments, or raise InputError."""
    if spec not in SPECS:
        raise InputError(f"there is no noise spec {spec!r}; choose {' or '.join(SPECS)}")
    seed, size = _checked_integer("seed", seed), _checked_integer("size", size)
    if not 0 <= seed <= _MAX_SEED:
        raise InputError(f"a noise seed must lie within 0 and 2**63 - 1, and is {seed}")
    if size < 2:
        raise InputError(f"synthetic images must be at least 2 pixels wide, and size is {size}")
    digest = hashlib.sha256(f"soapworks noise {spec} {SPECS[spec]}".encode()).digest()
    key = (seed, int.from_bytes(digest[:8], "big"))
    return NoiseRecipe(key=key, size=size, balanced=spec == "balanced")


def _checked_integer(name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise InputError(
            f"the {name} of synthetic images must be an integer, not {value!r}"
        ) from None


def checked_indices(indices: ArrayLike) -> list[int]:
    """Return the indices as Python integers, or raise InputError."""
    array = np.asarray(indices)
    if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
        raise InputError(
            "indices of synthetic images must be a sequence of integers from 0 to 2**63 - 1, such "
            f"as range(64), not {indices!r}"
        )
    if len(array) and (array.min() < 0 or array.max() > _MAX_SEED):
        wrong = array.min() if array.min() < 0 else array.max()
        raise InputError(f"indices of synthetic images go from 0 to 2**63 - 1, and one is {wrong}")
    return [int(i) for i in array]
