"""Textures of backgrounds and things: patterns in [0, 1] that mix two colours.

All patterns are functions of position in units of the image's side, so that a scene looks alike at
any size.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Pattern = Callable[[Field, Field, np.random.Generator], Field]


def _turned(x: Field, y: Field, rng: np.random.Generator) -> tuple[Field, Field]:
    """Turn the coordinates by a random angle and shift them by a random phase."""
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    shift = rng.uniform(0, 1, 2).astype(np.float32)
    return cos * x + sin * y + shift[0], cos * y - sin * x + shift[1]


def _wave(phase: Field) -> Field:
    """Return a soft square wave of period 1 in [0, 1]."""
    return np.float32(0.5) + np.float32(0.5) * np.tanh(3 * np.sin(np.float32(2 * np.pi) * phase))


def _plain(x: Field, y: Field, rng: np.random.Generator) -> Field:
    along, _ = _turned(x, y, rng)
    slope = np.float32(rng.uniform(0.2, 0.5))
    return np.clip(slope * (along - along.mean()) + np.float32(0.2), 0, 1)


def _stripes(x: Field, y: Field, rng: np.random.Generator) -> Field:
    along, _ = _turned(x, y, rng)
    return _wave(along * np.float32(rng.uniform(7, 14)))


def _checks(x: Field, y: Field, rng: np.random.Generator) -> Field:
    u, v = _turned(x, y, rng)
    frequency = np.float32(rng.uniform(5, 9))
    turn = np.float32(2 * np.pi)
    product = np.sin(turn * frequency * u) * np.sin(turn * frequency * v)
    return np.float32(0.5) + np.float32(0.5) * np.tanh(6 * product)


def _dots(x: Field, y: Field, rng: np.random.Generator) -> Field:
    u, v = _turned(x, y, rng)
    frequency = np.float32(rng.uniform(8, 13))
    du, dv = np.mod(u * frequency, 1) - np.float32(0.5), np.mod(v * frequency, 1) - np.float32(0.5)
    radius = np.float32(rng.uniform(0.25, 0.35))
    return np.clip((radius - np.hypot(du, dv)) * 6 + np.float32(0.5), 0, 1)


def _rings(x: Field, y: Field, rng: np.random.Generator) -> Field:
    centre = rng.uniform(0, 1, 2).astype(np.float32)
    return _wave(np.hypot(x - centre[0], y - centre[1]) * np.float32(rng.uniform(8, 14)))


def _clouds(x: Field, y: Field, rng: np.random.Generator) -> Field:
    # Twelve waves whose amplitude falls with frequency: the 1/f spectrum of natural scenes.
    frequency = np.exp(rng.uniform(np.log(1.0), np.log(16.0), 12)).astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi, 12).astype(np.float32)
    phase = rng.uniform(0, 2 * np.pi, 12).astype(np.float32)
    turn = np.float32(2 * np.pi)
    # exp(i(ax + by)) = exp(iax) exp(iby): rows and columns separate into one small product.
    across = np.exp(1j * turn * np.outer(x[0], frequency * np.cos(angle))).astype(np.complex64)
    down = np.exp(1j * (turn * np.outer(y[:, 0], frequency * np.sin(angle)) + phase))
    weights = (frequency**-0.7 / np.sqrt((frequency**-1.4).sum())).astype(np.float32)
    field = ((down * weights).astype(np.complex64) @ across.T).real
    return np.clip(np.float32(0.5) + np.float32(0.35) * field, 0, 1)


TEXTURES: dict[str, Pattern] = {
    "plain": _plain,
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "rings": _rings,
    "clouds": _clouds,
}
"""Pattern of each texture class, in the order of the class numbers."""


def texture_pattern(texture: str, x: Field, y: Field, rng: np.random.Generator) -> Field:
    """Draw one instance of a texture.

    Parameters
    ----------
    texture
        One of `TEXTURES`.
    x, y
        Positions (row, column) in units of the image's side, float32, as `numpy.meshgrid` lays
        them out: ``x`` changes along columns alone, ``y`` along rows alone.
    rng
        Source of the instance's orientation, frequency and phase.

    Returns
    -------
    float32 array (row, column) in [0, 1].
    """
    return TEXTURES[texture](x, y, rng)
