"""Supervised classification of shape and texture, by patch and by scene."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from soapworks.zoo.scenes import N_CLASSES, SHAPE_NAMES, TEXTURE_NAMES
from soapworks.zoo.training.architecture import normalise
from soapworks.zoo.training.scene_cache import SceneArrays

SCENE_LOSS_WEIGHT = 0.2
"""Weight of the class token's loss beside that of the patches."""
THING_WEIGHT = 4.0
"""Weight of a patch of things beside one of background: five patches in six are background."""
N_SHAPES, N_TEXTURES = len(SHAPE_NAMES), len(TEXTURE_NAMES)


def patch_shares(masks: NDArray[np.uint8], patch_size: int) -> NDArray[np.float32]:
    """Count classes per patch.

    Parameters
    ----------
    masks
        (scene, row, column), class numbers.
    patch_size
        Side of a patch in pixels.

    Returns
    -------
    float32 (scene, patch, class), the share of each patch's pixels; patches are row-major.
    """
    n, height, width = masks.shape
    rows, columns = height // patch_size, width // patch_size
    cut = masks.reshape(n, rows, patch_size, columns, patch_size).transpose(0, 1, 3, 2, 4)
    cut = cut.reshape(n * rows * columns, -1).astype(np.int64)
    numbered = cut + np.arange(len(cut))[:, None] * N_CLASSES
    counts = np.bincount(numbered.ravel(), minlength=len(cut) * N_CLASSES)
    return (counts / patch_size**2).astype(np.float32).reshape(n, rows * columns, N_CLASSES)


def split_classes(shares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn shares of classes into shares of shapes and of textures; entry 0 is the background.

    Parameters
    ----------
    shares
        (..., `N_CLASSES`).

    Returns
    -------
    (..., 1 + shapes) and (..., 1 + textures).
    """
    ground, pairs = shares[..., :1], shares[..., 1:].unflatten(-1, (N_SHAPES, N_TEXTURES))
    return torch.cat([ground, pairs.sum(-1)], -1), torch.cat([ground, pairs.sum(-2)], -1)


class SupervisedModel(nn.Module):
    """Encoder with linear classifiers of patches and class token.

    Parameters
    ----------
    encoder
        timm VisionTransformer with a class token.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.patch_size = encoder.patch_embed.patch_size[0]
        self.of_patch = nn.Linear(encoder.embed_dim, 2 + N_SHAPES + N_TEXTURES)
        self.of_scene = nn.Linear(encoder.embed_dim, 2 + N_SHAPES + N_TEXTURES)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return float32 logits, shapes before textures, of patches and scenes."""
        tokens = self.encoder.forward_features(images)
        return self.of_patch(tokens[:, 1:]).float(), self.of_scene(tokens[:, 0]).float()

    def loss(
        self, scenes: SceneArrays, picked: np.ndarray, rng: np.random.Generator
    ) -> torch.Tensor:
        """Return the loss of one batch of scenes, mirrored at random."""
        images, masks = scenes.images[picked], scenes.masks[picked]
        mirrored = rng.random(len(picked)) < 0.5
        images[mirrored] = images[mirrored, :, ::-1]
        masks[mirrored] = masks[mirrored, :, ::-1]
        shares = torch.from_numpy(patch_shares(masks, self.patch_size)).flatten(0, 1)
        weights = 1 + (THING_WEIGHT - 1) * (1 - shares[:, 0])
        labels = one_hot(torch.from_numpy(scenes.labels[picked]), N_CLASSES).float()
        patches, whole = self(normalise(images))
        return _pair_loss(patches.flatten(0, 1), shares, weights) + (
            SCENE_LOSS_WEIGHT * _pair_loss(whole, labels, torch.ones(len(labels)))
        )

    @torch.no_grad()
    def evaluate(self, scenes: SceneArrays) -> dict[str, float]:
        """Return accuracies over held-out scenes.

        ``patch_accuracy`` is over all patches (shape and texture both right), ``shape_accuracy``
        and ``texture_accuracy`` over patches whose commonest class is not the background,
        ``scene_accuracy`` that of the class token (both right).
        """
        patch_hits, shape_hits, texture_hits, scene_hits = [], [], [], []
        for picked in np.array_split(np.arange(len(scenes.images)), len(scenes.images) // 64):
            commonest = patch_shares(scenes.masks[picked], self.patch_size).argmax(-1)
            patches, whole = self(normalise(scenes.images[picked]))
            shape_hit, texture_hit = _pair_hits(patches, torch.from_numpy(commonest))
            of_things = torch.from_numpy(commonest > 0)
            patch_hits.append((shape_hit & texture_hit).flatten())
            shape_hits.append(shape_hit[of_things])
            texture_hits.append(texture_hit[of_things])
            shape_hit, texture_hit = _pair_hits(whole, torch.from_numpy(scenes.labels[picked]))
            scene_hits.append(shape_hit & texture_hit)
        return {
            "patch_accuracy": float(torch.cat(patch_hits).float().mean()),
            "shape_accuracy": float(torch.cat(shape_hits).float().mean()),
            "texture_accuracy": float(torch.cat(texture_hits).float().mean()),
            "scene_accuracy": float(torch.cat(scene_hits).float().mean()),
        }


def _pair_loss(logits: torch.Tensor, shares: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean cross-entropy, shapes plus textures."""
    shapes, textures = split_classes(shares)
    each = cross_entropy(logits[:, : 1 + N_SHAPES], shapes, reduction="none") + (
        cross_entropy(logits[:, 1 + N_SHAPES :], textures, reduction="none")
    )
    return (each * weights).sum() / weights.sum()


def _pair_hits(logits: torch.Tensor, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where the shape, and where the texture, is right."""
    shapes, textures = split_classes(one_hot(classes, N_CLASSES))
    shape = logits[..., : 1 + N_SHAPES].argmax(-1) == shapes.argmax(-1)
    return shape, logits[..., 1 + N_SHAPES :].argmax(-1) == textures.argmax(-1)
