"""Procedural scenes: textured things on a textured background, with masks and labels.

Scene i of a seed is a function of (seed, i) alone. Its geometry does not depend on the size it is
rendered at. Things lie anywhere and in any orientation, so the class does not depend on position.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soapworks.errors import InputError
from soapworks.zoo.shapes import SHAPES, Field, shape_field
from soapworks.zoo.textures import TEXTURES, texture_pattern

SHAPE_NAMES = tuple(SHAPES)
TEXTURE_NAMES = tuple(TEXTURES)
N_CLASSES = 1 + len(SHAPE_NAMES) * len(TEXTURE_NAMES)
"""Classes of a mask: the background and each pair of a shape and a texture."""


@dataclass(frozen=True)
class Thing:
    """A thing in a scene; lengths in units of the image's side."""

    shape: str
    """Name in `SHAPE_NAMES`."""
    texture: str
    """Name in `TEXTURE_NAMES`."""
    x: float
    """Centre, from the left edge."""
    y: float
    """Centre, from the upper edge."""
    radius: float
    """Half the extent of the shape."""
    angle: float
    """Rotation in radians, from the x axis towards the y axis (clockwise on the screen)."""

    @property
    def class_id(self) -> int:
        """Class in a mask: 1 + shape x (number of textures) + texture."""
        shape, texture = SHAPE_NAMES.index(self.shape), TEXTURE_NAMES.index(self.texture)
        return 1 + shape * len(TEXTURE_NAMES) + texture


@dataclass(frozen=True)
class Scene:
    """A scene: the image and the things in it."""

    image: NDArray[np.uint8]
    """Pixels (row, column, channel), RGB."""
    mask: NDArray[np.uint8]
    """Class number of each pixel (row, column); 0 is the background."""
    label: int
    """Class that covers most pixels, the background left out."""
    things: tuple[Thing, ...]
    """Everything painted, from back to front."""


def render_scene(index: int, *, size: int = 96, seed: int = 0) -> Scene:
    """Render one scene.

    Parameters
    ----------
    index
        Number of the scene, from 0.
    size
        Side of the square image in pixels, at least 8.
    seed
        Names the set of scenes; two seeds share nothing.

    Returns
    -------
    Scene
        The same for the same (seed, index, size), whatever was rendered before.

    Raises
    ------
    InputError
        A negative index or seed, or a side below 8 pixels.
    """
    if index < 0 or seed < 0 or size < 8:
        raise InputError(
            "a scene needs index >= 0, seed >= 0 and size >= 8, not index "
            f"{index}, seed {seed}, size {size}"
        )
    rng = np.random.default_rng([seed, index])
    things = _place_things(rng)
    line = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    x, y = np.meshgrid(line, line)

    canvas, ground = _paint_background(x, y, rng)
    mask = np.zeros((size, size), np.uint8)
    for thing in things:
        field = _thing_field(thing, x, y)
        cover = np.clip(np.float32(0.5) - field * np.float32(thing.radius * size), 0, 1)
        paint = _paint_texture(thing.texture, x, y, _distinct_colours(ground, rng), rng)
        canvas += cover[..., None] * (paint - canvas)
        mask[field < 0] = thing.class_id

    canvas *= _light(x, y, rng)[..., None]
    canvas += rng.normal(0, rng.uniform(0.005, 0.03), canvas.shape).astype(np.float32)
    image = np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8)
    counts = np.bincount(mask.ravel(), minlength=N_CLASSES)
    return Scene(image, mask, int(counts[1:].argmax()) + 1, things)


def write_scenes(folder: str | Path, n: int, *, size: int = 96, seed: int = 0) -> list[Path]:
    """Write scenes 0 to n-1 as PNG files into a folder.

    They are named ``scene-00000.png``, ``scene-00001.png``, ...

    A file that is there already with the same content is left alone, time stamp included.

    Parameters
    ----------
    folder
        Made where it is missing.
    n, size, seed
        Number of scenes; see `render_scene`.

    Returns
    -------
    The files' paths, by index.
    """
    from PIL import Image

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(n):
        encoded = io.BytesIO()
        Image.fromarray(render_scene(index, size=size, seed=seed).image).save(encoded, "PNG")
        path = folder / f"scene-{index:05d}.png"
        if not path.is_file() or path.read_bytes() != encoded.getvalue():
            partial = path.with_suffix(".partial")
            partial.write_bytes(encoded.getvalue())
            partial.replace(path)
        paths.append(path)
    return paths


def _place_things(rng: np.random.Generator) -> tuple[Thing, ...]:
    """Draw one to three things whose centres keep apart, so that none is hidden altogether."""
    things: list[Thing] = []
    for _ in range(rng.integers(1, 4)):
        x, y = rng.uniform(0.08, 0.92, 2)
        if any(np.hypot(x - other.x, y - other.y) < 0.25 for other in things):
            continue
        things.append(
            Thing(
                SHAPE_NAMES[rng.integers(len(SHAPE_NAMES))],
                TEXTURE_NAMES[rng.integers(len(TEXTURE_NAMES))],
                float(x),
                float(y),
                float(rng.uniform(0.14, 0.3)),
                float(rng.uniform(0, 2 * np.pi)),
            )
        )
    return tuple(things)


def _thing_field(thing: Thing, x: Field, y: Field) -> Field:
    """Evaluate a thing's signed field (row, column), in units of its radius."""
    cos, sin = np.float32(np.cos(thing.angle)), np.float32(np.sin(thing.angle))
    dx = (x - np.float32(thing.x)) / np.float32(thing.radius)
    dy = (y - np.float32(thing.y)) / np.float32(thing.radius)
    return shape_field(thing.shape, cos * dx + sin * dy, cos * dy - sin * dx)


def _paint_background(x: Field, y: Field, rng: np.random.Generator) -> tuple[Field, Field]:
    """Paint the ground, half of the time in two parts; return it and its mean colour (3,)."""
    canvas = _paint_ground(x, y, rng)
    if rng.random() < 0.5:
        angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.25, 0.25)
        across = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle) - offset
        cover = np.clip(across * np.float32(x.shape[0]) + np.float32(0.5), 0, 1)
        canvas += cover[..., None].astype(np.float32) * (_paint_ground(x, y, rng) - canvas)
    return canvas, canvas.mean((0, 1))


def _paint_ground(x: Field, y: Field, rng: np.random.Generator) -> Field:
    # Grounds have the textures of things, at lower contrast: a texture alone makes no thing.
    name = "clouds" if rng.random() < 0.5 else TEXTURE_NAMES[rng.integers(len(TEXTURE_NAMES))]
    first = rng.uniform(0.1, 0.9, 3)
    second = np.clip(first + rng.normal(0, 0.15, 3), 0, 1)
    return _paint_texture(name, x, y, np.stack([first, second]).astype(np.float32), rng)


def _paint_texture(
    name: str, x: Field, y: Field, colours: Field, rng: np.random.Generator
) -> Field:
    pattern = texture_pattern(name, x, y, rng)[..., None]
    return colours[0] + pattern * (colours[1] - colours[0])


def _distinct_colours(ground: Field, rng: np.random.Generator) -> Field:
    """Draw two colours (2, 3) that differ from each other and, on average, from the ground."""
    tries = rng.uniform(0, 1, (16, 2, 3)).astype(np.float32)
    apart = np.linalg.norm(tries[:, 0] - tries[:, 1], axis=-1)
    from_ground = np.linalg.norm(tries.mean(1) - ground, axis=-1)
    good = np.flatnonzero((apart > 0.4) & (from_ground > 0.3))
    return tries[good[0] if good.size else np.minimum(apart, from_ground).argmax()]


def _light(x: Field, y: Field, rng: np.random.Generator) -> Field:
    """Draw illumination that falls off linearly in a random direction."""
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.5)
    slope = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
    return (1 + strength * slope).astype(np.float32)
