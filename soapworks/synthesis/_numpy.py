"""Synthetic images in NumPy: the reference, and the CPU's renderer.

Every image is computed by itself with the same shapes and without threads, so its bytes depend
neither on what else is asked for nor on the number of threads of BLAS or torch. All arrays are
float32; each renderer has scratch of its own (fresh pages cost as much as the arithmetic).
"""

import numpy as np
from numpy.typing import NDArray

from soapworks.synthesis._noise import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    N_CHANNELS,
    N_SPECTRA,
    SPECTRA,
    WHITE,
    NoiseRecipe,
    Parts,
    pink_filter,
    planes,
    ramp,
    weights,
)
from soapworks.synthesis._philox import generator

_MEAN = np.array(IMAGENET_MEAN, dtype=np.float32)[:, None, None]
_STD = np.array(IMAGENET_STD, dtype=np.float32)[:, None, None]
_HALF, _MINUS_TWO = np.float32(0.5), np.float32(-2)
_UNIT_OF_UNIFORM = np.float32(2.0**-32)
_UNIT_OF_ANGLE = np.float32(np.pi * 2.0**-31)


class NumpyRenderer:
    """Render images of a recipe, in one thread."""

    def __init__(self, recipe: NoiseRecipe) -> None:
        size = recipe.size
        self._recipe = recipe
        self._fields = np.empty((N_SPECTRA, size, size), dtype=np.float32)
        self._white = np.empty((N_CHANNELS, size, size), dtype=np.float32)
        self._gradient = np.empty_like(self._white)
        self._modulated = np.empty_like(self._white)
        self._polar = np.empty((2, -(-(size**2) // 2)), dtype=np.float32)

    def image(self, index: int, out: NDArray[np.float32]) -> None:
        """Write image `index` into `out`, (3, size, size)."""
        out[...] = 0
        factors = weights(self._recipe, index).astype(np.float32)
        for part, factor in zip(self.parts(index), factors, strict=True):
            part *= factor
            out += part

    def parts(self, index: int) -> Parts:
        """Return the parts of image `index`, until the next call."""
        self._draw_normals(SPECTRA, index, self._fields)
        fields = _pink_fields(self._fields)
        self._draw_normals(WHITE, index, self._white)
        np.multiply(fields[0], _STD, out=self._modulated)
        self._modulated += _MEAN
        np.clip(self._modulated, 0, 1, out=self._modulated)
        self._modulated *= self._white
        return Parts(self._modulated, fields[1:], self._draw_gradient(index))

    def _draw_gradient(self, index: int) -> NDArray[np.float32]:
        a, b, c = planes(self._recipe, index).T[:, :, None, None]
        along = ramp(self._recipe.size)
        np.add(a * along, b * along[:, None] + c, out=self._gradient)
        np.clip(self._gradient, 0, 1, out=self._gradient)
        self._gradient -= _MEAN
        self._gradient /= _STD
        return self._gradient

    def _draw_normals(self, stream: int, index: int, out: NDArray[np.float32]) -> None:
        """Fill `out`, (n_fields, size, size), with normal numbers by Box-Muller.

        The low half of a word gives the radius, from u = (k + 1/2) / 2**32, never 0: normals reach
        out to 6.7. The high half, taken as signed, gives the angle in [-pi, pi). Each field has
        words of its own, and first all their cosines, then their sines.
        """
        source = generator(self._recipe.key, stream, index)
        radius, angle = self._polar
        n_words = len(radius)
        # Field by field, so that the data stay in the processor's cache.
        for field in out.reshape(len(out), -1):
            raw = source.random_raw(n_words).astype("<u8", copy=False)
            radius[...] = raw.view("<u4")[0::2]
            radius += _HALF
            radius *= _UNIT_OF_UNIFORM
            np.log(radius, out=radius)
            radius *= _MINUS_TWO
            np.sqrt(radius, out=radius)
            angle[...] = raw.view("<i4")[1::2]
            angle *= _UNIT_OF_ANGLE
            n_sines = len(field) - n_words
            np.cos(angle, out=field[:n_words])
            np.sin(angle[:n_sines], out=field[n_words:])
            field[:n_words] *= radius
            field[n_words:] *= radius[:n_sines]


def _pink_fields(spectrum: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn white DCT coefficients (n, size, size) into pink fields.

    An orthonormal transform of white noise is white noise, so the forward DCT is left out.
    The standard deviation (divisor size**2) comes from the coefficients but (0, 0), by Parseval.
    `spectrum` is overwritten.
    """
    # The fast transform is single-threaded and knows no precision flags, unlike matrix products.
    from scipy.fft import idctn

    size = spectrum.shape[-1]
    spectrum *= pink_filter(size)
    constant = spectrum[:, 0, 0].copy()
    spectrum[:, 0, 0] = 0
    std = np.sqrt([np.square(field).sum() for field in spectrum]) / size
    spectrum[:, 0, 0] = constant
    spectrum /= std.astype(np.float32)[:, None, None]
    return idctn(spectrum, axes=(1, 2), norm="ortho", overwrite_x=True, workers=1)
