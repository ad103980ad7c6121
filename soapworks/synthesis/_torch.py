"""Synthetic images by whole batches in torch, for GPUs.

The same words and formulas as in ``_numpy.py``, with which it agrees to float rounding.
"""

import numpy as np
import torch

from soapworks._full_precision import full_precision
from soapworks.synthesis._noise import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    N_CHANNELS,
    N_SPECTRA,
    SPECTRA,
    WHITE,
    NoiseRecipe,
    Parts,
    dct_matrix,
    pink_filter,
    planes,
    ramp,
    weights,
)
from soapworks.synthesis._philox import torch_words

_PIXELS_PER_BATCH = 2**20
"""Images are rendered in sub-batches of about this many pixels (20 images at 224 px)."""


class TorchRenderer:
    """Render images of a recipe on a device."""

    def __init__(self, recipe: NoiseRecipe, device: torch.device) -> None:
        self._recipe = recipe
        self._device = device
        self.images_per_batch = max(1, _PIXELS_PER_BATCH // recipe.size**2)
        self._dct = self._send(dct_matrix(recipe.size))
        self._filter = self._send(pink_filter(recipe.size))
        self._ramp = self._send(ramp(recipe.size))
        self._mean = self._send(np.array(IMAGENET_MEAN, dtype=np.float32)[:, None, None])
        self._std = self._send(np.array(IMAGENET_STD, dtype=np.float32)[:, None, None])

    def images(self, indices: list[int]) -> torch.Tensor:
        """Return the images `indices`, (n, 3, size, size)."""
        factors = self._send(np.stack([weights(self._recipe, i) for i in indices]))
        images = torch.zeros((), device=self._device)
        for part, factor in zip(self.parts(indices), factors.T, strict=True):
            images = images + part * factor[:, None, None, None]
        return images

    def parts(self, indices: list[int]) -> Parts:
        """Return the unweighted parts of the images `indices`."""
        size = self._recipe.size
        n_words = -(-(size**2) // 2)
        raw = torch_words(
            self._recipe.key,
            {SPECTRA: N_SPECTRA * n_words, WHITE: N_CHANNELS * n_words},
            torch.tensor(indices, dtype=torch.int64, device=self._device),
        )
        fields = self._pink_fields(_normals(raw.pop(SPECTRA), N_SPECTRA, size))
        modulation = (fields[:, :1] * self._std + self._mean).clamp(0, 1)
        modulated = modulation * _normals(raw.pop(WHITE), N_CHANNELS, size)
        return Parts(modulated, fields[:, 1:], self._gradients(indices))

    def _gradients(self, indices: list[int]) -> torch.Tensor:
        plane = self._send(np.stack([planes(self._recipe, i) for i in indices]))
        a, b, c = plane.permute(2, 0, 1)[..., None, None]
        pixels = a * self._ramp + (b * self._ramp[:, None] + c)
        return (pixels.clamp(0, 1) - self._mean) / self._std

    def _pink_fields(self, white: torch.Tensor) -> torch.Tensor:
        spectrum = white * self._filter
        constant = spectrum[..., 0, 0].clone()
        spectrum[..., 0, 0] = 0
        std = spectrum.square().sum(dim=(-2, -1)).sqrt() / self._recipe.size
        spectrum[..., 0, 0] = constant
        spectrum /= std[..., None, None]
        with full_precision(self._device.type):
            return self._dct.T @ (spectrum @ self._dct)

    def _send(self, array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, dtype=torch.float32, device=self._device)


def _normals(raw: torch.Tensor, n_fields: int, size: int) -> torch.Tensor:
    """Turn words (n, words) into normals (n, n_fields, size, size).

    See `NumpyRenderer`, whose order of operations is kept.
    """
    n_images = len(raw)
    raw = raw.reshape(n_images, n_fields, -1)
    radius = ((raw & 0xFFFFFFFF).to(torch.float32) + 0.5) * 2.0**-32
    radius = radius.log().mul_(-2).sqrt_()
    angle = (raw >> 32).to(torch.float32).mul_(np.pi * 2.0**-31)
    normal = torch.cat([angle.cos() * radius, angle.sin() * radius], dim=-1)
    return normal[..., : size**2].reshape(n_images, n_fields, size, size)
