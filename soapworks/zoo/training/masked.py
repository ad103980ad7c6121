"""Masked image modelling: reconstruct hidden patches from visible ones (MAE)."""

from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import Block
from torch import nn

from soapworks.zoo.training.architecture import normalise, patchify, sine_cosine_positions
from soapworks.zoo.training.scene_cache import SceneArrays

MASKED_SHARE = 0.75


class MaskedModel(nn.Module):
    """Encoder of visible patches and a light decoder of all patches.

    Parameters
    ----------
    encoder
        timm VisionTransformer with a class token.
    decoder_channels, decoder_depth
        Width and blocks of the decoder; it is thrown away after training.

    References
    ----------
    He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022.
    """

    positions: torch.Tensor

    def __init__(self, encoder: Any, *, decoder_channels: int = 96, decoder_depth: int = 2) -> None:
        super().__init__()
        self.encoder = encoder
        self.patch_size = encoder.patch_embed.patch_size[0]
        rows, columns = encoder.patch_embed.grid_size
        positions = torch.zeros(1, 1 + rows * columns, decoder_channels)
        positions[0, 1:] = torch.from_numpy(sine_cosine_positions(rows, columns, decoder_channels))
        self.register_buffer("positions", positions)
        self.narrow = nn.Linear(encoder.embed_dim, decoder_channels)
        self.mask_token = nn.Parameter(torch.randn(1, 1, decoder_channels) * 0.02)
        self.decoder = nn.Sequential(*(Block(decoder_channels, 3) for _ in range(decoder_depth)))
        self.decoder_norm = nn.LayerNorm(decoder_channels)
        self.pixels = nn.Linear(decoder_channels, self.patch_size**2 * 3)

    def forward(self, images: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        """Return the mean squared error of the hidden patches' normalised pixels.

        Parameters
        ----------
        images
            float32 (n, 3, row, column), normalised.
        order
            int64 (n, patch): a permutation of the patches per image; the first quarter is seen.
        """
        n, n_patches = order.shape
        n_seen = n_patches - int(n_patches * MASKED_SHARE)
        encoder = self.encoder
        tokens = encoder.patch_embed(images) + encoder.pos_embed[:, 1:]
        seen = tokens.gather(1, order[:, :n_seen, None].expand(-1, -1, tokens.shape[2]))
        prefix = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(n, -1, -1)
        encoded = self.narrow(encoder.norm(encoder.blocks(torch.cat([prefix, seen], 1))))

        shuffled = torch.cat([encoded[:, 1:], self._hidden(n, n_patches - n_seen, encoded)], 1)
        back = order.argsort(1)[:, :, None].expand(-1, -1, shuffled.shape[2])
        full = torch.cat([encoded[:, :1], shuffled.gather(1, back)], 1) + self.positions
        # Only hidden patches are scored: the last layers need not see the others.
        decoded = self.decoder(full)[:, 1:]
        hidden = order[:, n_seen:, None]
        decoded = decoded.gather(1, hidden.expand(-1, -1, decoded.shape[2]))
        predicted = self.pixels(self.decoder_norm(decoded)).float()

        target = patchify(images, self.patch_size)
        target = target.gather(1, hidden.expand(-1, -1, target.shape[2]))
        variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
        return (predicted - (target - mean) / (variance + 1e-6).sqrt()).square().mean()

    def _hidden(self, n: int, n_hidden: int, like: torch.Tensor) -> torch.Tensor:
        return self.mask_token.expand(n, n_hidden, -1).to(like.dtype)

    def loss(
        self, scenes: SceneArrays, picked: np.ndarray, rng: np.random.Generator
    ) -> torch.Tensor:
        """Return the loss of one batch of scenes, mirrored and masked at random."""
        images = scenes.images[picked]
        mirrored = rng.random(len(picked)) < 0.5
        images[mirrored] = images[mirrored, :, ::-1]
        n_patches = self.positions.shape[1] - 1
        order = rng.random((len(picked), n_patches)).argsort(1)
        return self(normalise(images), torch.from_numpy(order))

    @torch.no_grad()
    def evaluate(self, scenes: SceneArrays) -> dict[str, float]:
        """Return the loss over held-out scenes, with fixed masks."""
        losses = [
            float(self.loss(scenes, picked, np.random.default_rng(picked[0])))
            for picked in np.array_split(np.arange(len(scenes.images)), len(scenes.images) // 64)
        ]
        return {"held_out_loss": float(np.mean(losses))}
