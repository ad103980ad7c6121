"""Outlines of the things in a scene, as signed fields.

A field is negative inside the outline, positive outside and close to a distance near the edge. Its
coordinates are those of the thing itself: origin at its centre, unit length its radius, turned by
its angle; ``v`` points down, as rows do.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]


def _disc(u: Field, v: Field) -> Field:
    return np.hypot(u, v) - 1


def _box(u: Field, v: Field, half_width: float, half_height: float) -> Field:
    return np.maximum(np.abs(u) - half_width, np.abs(v) - half_height)


def _square(u: Field, v: Field) -> Field:
    return _box(u, v, 0.8, 0.8)


def _bar(u: Field, v: Field) -> Field:
    return _box(u, v, 1.0, 0.35)


def _cross(u: Field, v: Field) -> Field:
    return np.minimum(_box(u, v, 1.0, 0.3), _box(u, v, 0.3, 1.0))


def _triangle(u: Field, v: Field) -> Field:
    slanted = np.abs(u) * np.float32(np.sqrt(0.75)) - v * np.float32(0.5)
    return np.maximum(slanted, v) - np.float32(0.5)


def _ring(u: Field, v: Field) -> Field:
    return np.abs(np.hypot(u, v) - np.float32(0.75)) - np.float32(0.25)


def _crescent(u: Field, v: Field) -> Field:
    bite = np.hypot(u - np.float32(0.5), v) - np.float32(0.75)
    return np.maximum(_disc(u, v), -bite)


def _star(u: Field, v: Field) -> Field:
    fifth = np.float32(2 * np.pi / 5)
    angle = np.abs(np.mod(np.arctan2(v, u), fifth) - fifth / 2)
    # A straight edge from a tip (radius 1) to a notch (radius 0.45), in one tenth of the turn.
    tip, notch = np.array([1.0, 0.0]), 0.45 * np.array([np.cos(fifth / 2), np.sin(fifth / 2)])
    normal = np.array([notch[1], tip[0] - notch[0]]) / np.hypot(*(tip - notch))
    radius, from_tip = np.hypot(u, v), fifth / 2 - angle
    x, y = radius * np.cos(from_tip), radius * np.sin(from_tip)
    edge = (x - 1) * np.float32(normal[0]) + y * np.float32(normal[1])
    return edge.astype(np.float32, copy=False)


SHAPES: dict[str, Callable[[Field, Field], Field]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "bar": _bar,
    "cross": _cross,
    "ring": _ring,
    "crescent": _crescent,
    "star": _star,
}
"""Field of each shape class, in the order of the class numbers."""


def shape_field(shape: str, u: Field, v: Field) -> Field:
    """Evaluate a shape's signed field.

    Parameters
    ----------
    shape
        One of `SHAPES`.
    u, v
        Coordinates in the thing's own frame (float32, one shape), in units of its radius.

    Returns
    -------
    float32 array of the same shape: negative inside, in units of the radius.
    """
    return SHAPES[shape](u, v)
