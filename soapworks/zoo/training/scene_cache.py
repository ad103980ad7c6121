"""Scenes rendered once for training and kept as memory-mapped arrays."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soapworks.zoo.scenes import render_scene

SCENE_VERSION = 1
"""Raised by hand when the same (seed, index) renders differently: names the cached files."""


@dataclass(frozen=True)
class SceneArrays:
    """Scenes as arrays; entry i is scene i of the seed."""

    images: NDArray[np.uint8]
    """(scene, row, column, channel)."""
    masks: NDArray[np.uint8]
    """(scene, row, column), class numbers."""
    labels: NDArray[np.int64]
    """(scene,), class numbers."""


def load_scenes(
    folder: Path, n: int, *, size: int = 96, seed: int = 0, n_workers: int = 1
) -> SceneArrays:
    """Return scenes 0 to n-1, rendered once per folder.

    Parameters
    ----------
    folder
        Where the arrays are kept; made where it is missing.
    n, size, seed
        Number of scenes; see `soapworks.zoo.scenes.render_scene`.
    n_workers
        Processes that render; 0 renders in this process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"scenes-v{SCENE_VERSION}-{n}x{size}-seed{seed}"
    paths = {name: folder / f"{stem}-{name}.npy" for name in ("images", "masks", "labels")}
    if not all(path.is_file() for path in paths.values()):
        _render(paths, n, size, seed, n_workers)
    return SceneArrays(*(np.load(path, mmap_mode="r") for path in paths.values()))


def _render(paths: dict[str, Path], n: int, size: int, seed: int, n_workers: int) -> None:
    partials = {name: path.with_suffix(".partial") for name, path in paths.items()}
    opened = np.lib.format.open_memmap
    images = opened(partials["images"], mode="w+", dtype=np.uint8, shape=(n, size, size, 3))
    masks = opened(partials["masks"], mode="w+", dtype=np.uint8, shape=(n, size, size))
    labels = opened(partials["labels"], mode="w+", dtype=np.int64, shape=(n,))
    render = partial(render_scene, size=size, seed=seed)
    if n_workers:
        with ProcessPoolExecutor(n_workers) as pool:
            scenes = pool.map(render, range(n), chunksize=64)
            for i, scene in enumerate(scenes):
                images[i], masks[i], labels[i] = scene.image, scene.mask, scene.label
    else:
        for i in range(n):
            scene = render(i)
            images[i], masks[i], labels[i] = scene.image, scene.mask, scene.label
    for array in (images, masks, labels):
        array.flush()
    for name, path in paths.items():
        partials[name].replace(path)
