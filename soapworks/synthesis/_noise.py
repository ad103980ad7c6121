"""The recipe of synthetic images, an image's few parameters, and the matrices of its noise.

Section 1 of docs/method.md. The parameters (weights, slopes) are drawn on the CPU in float64
whatever the device, 13 numbers per image; only fields of noise are worth a GPU.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from soapworks.synthesis._philox import Key, words

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
N_CHANNELS = 3
N_SPECTRA = 1 + N_CHANNELS
"""The modulation's, then one per channel of the pink part."""

# Streams of random words of an image. A new one takes a new number; a used one never changes.
PARAMETERS, SPECTRA, WHITE = 0, 1, 2

_N_WEIGHT_WORDS = 4
_N_GRADIENT_WORDS = 3 * N_CHANNELS


@dataclass(frozen=True)
class NoiseRecipe:
    """Everything that the pixels of image i depend on, beside i."""

    key: Key
    """Philox key: (seed, word of the spec and its version)."""
    size: int
    """Side of the square image in pixels."""
    balanced: bool
    """Whether gradients are the balanced ones or the authors', which only rise and saturate."""


class Parts(NamedTuple):
    """The unweighted parts of images, each (..., 3, size, size) float32."""

    modulated_white: Any
    pink: Any
    gradient: Any


def uniforms(recipe: NoiseRecipe, index: int) -> NDArray[np.float64]:
    """Draw uniform numbers: 4 for the weights, 9 for the gradients."""
    raw = words(recipe.key, PARAMETERS, index, _N_WEIGHT_WORDS + _N_GRADIENT_WORDS)
    return ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def weights(recipe: NoiseRecipe, index: int) -> NDArray[np.float64]:
    """Draw the weights (3,) of an image's parts.

    They follow Dirichlet(1, 1, 2): gamma variables of shape 1, 1 and 2, as sums of that many
    exponential ones, over their sum.
    """
    exponential = -np.log(uniforms(recipe, index)[:_N_WEIGHT_WORDS])
    gamma = np.array([exponential[0], exponential[1], exponential[2] + exponential[3]])
    return gamma / gamma.sum()


def planes(recipe: NoiseRecipe, index: int) -> NDArray[np.float32]:
    """Draw slopes and offset of each channel's gradient, (3, 3).

    In pixel space a channel is a*x + b*y + c with x, y in [0, 1] from left and top.

    ``authors``: a, b, c ~ U(0, 1); the sum is clipped to [0, 1] later.

    ``balanced``: (a, b) uniform in the square |a| + |b| <= 1, from p, q ~ U(-1, 1) as
    a = (p + q) / 2, b = (p - q) / 2, and the value in the middle of the image uniform over the room
    that is left: in [h, 1 - h] with half the range h = (|a| + |b|) / 2 = max(|p|, |q|) / 2. So the
    channel fits [0, 1] unclipped, and its law is the same under both flips and around mid-grey.
    """
    uniform = uniforms(recipe, index)[_N_WEIGHT_WORDS:].reshape(N_CHANNELS, 3)
    if not recipe.balanced:
        return uniform.astype(np.float32)
    p, q = 2 * uniform[:, 0] - 1, 2 * uniform[:, 1] - 1
    a, b = (p + q) / 2, (p - q) / 2
    half_range = np.maximum(np.abs(p), np.abs(q)) / 2
    middle = half_range + (1 - 2 * half_range) * uniform[:, 2]
    return np.stack([a, b, middle - (a + b) / 2], axis=1).astype(np.float32)


@lru_cache(maxsize=8)
def dct_matrix(size: int) -> NDArray[np.float32]:
    """Return the orthonormal DCT-II matrix C: X = C x C', x = C' X C."""
    k = np.arange(size)[:, None]
    n = np.arange(size)[None, :]
    # The angle's multiple of pi / (2 size) is reduced first: exact in integers, lossy afterwards.
    matrix = np.sqrt(2 / size) * np.cos(np.pi / (2 * size) * ((2 * n + 1) * k % (4 * size)))
    matrix[0] = np.sqrt(1 / size)
    return _frozen(matrix)


@lru_cache(maxsize=8)
def pink_filter(size: int) -> NDArray[np.float32]:
    """Return 1 / sqrt(i^2 + j^2) for coefficients (i, j), 1 for (0, 0)."""
    i = np.arange(size)
    frequency = np.hypot(i[:, None], i[None, :])
    frequency[0, 0] = 1
    return _frozen(1 / frequency)


@lru_cache(maxsize=8)
def ramp(size: int) -> NDArray[np.float32]:
    """Return the positions of a row's pixels, from 0 to 1."""
    return _frozen(np.linspace(0, 1, size))


def _frozen(array: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return it in float32, read-only: a cache shares it."""
    single = array.astype(np.float32)
    single.flags.writeable = False
    return single
