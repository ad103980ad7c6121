"""A made-up network and data: tokens are colours of patches, so answers are known."""

import numpy as np
from PIL import Image

from soapworks.evaluation.tasks import ModelInput

MODEL = ModelInput((32, 32), (4, 4), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def colours(image):
    """Mean colour of each patch of (3, height, width), and a constant: (row, column, 4)."""
    _, height, width = image.shape
    patches = image.reshape(3, height // 4, 4, width // 4, 4).mean(axis=(2, 4))
    tokens = patches.transpose(1, 2, 0)
    return np.concatenate([tokens, np.full((*tokens.shape[:2], 1), 0.1)], axis=2)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def squares(folder, n=3, *, shape=(32, 32), labels="masks", seed=0, values=None):
    """Write images of one coloured rectangle on grey, with masks or label maps."""
    rng = np.random.default_rng(seed)
    for number in range(n):
        mask = np.zeros(shape, bool)
        top, left = 4 * rng.integers(1, 4, 2)
        mask[top : top + 12, left : left + 8] = True
        colour = [200, 10, 10] if number % 2 else [10, 10, 200]
        pixels = np.where(mask[..., None], colour, [60, 90, 60])
        label = 255 if values is None else values[number % 2]
        write(folder / f"images/{number}.png", pixels + seed)
        write(folder / f"{labels}/{number}.png", mask * label)
