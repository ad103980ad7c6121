"""The zoo's one architecture, its fixed positions, and the folder it is published in."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from soapworks.synthesis.images import IMAGENET_MEAN, IMAGENET_STD

ARCHITECTURE = "vit_tiny_patch16_224"
MODEL_ARGS: dict[str, Any] = {"img_size": 96, "patch_size": 8, "depth": 6}
N_CHANNELS = 192


def sine_cosine_positions(n_rows: int, n_columns: int, n_channels: int) -> NDArray[np.float32]:
    """Compute the fixed two-dimensional position embedding.

    The first half of the channels codes the column, the second half the row; each half is the
    sines, then the cosines, of the coordinate times 10000^(-k/K) for k = 0 .. K-1.

    Parameters
    ----------
    n_rows, n_columns
        Grid of patches.
    n_channels
        A multiple of 4; K is a quarter of it.

    Returns
    -------
    float32 array (n_rows * n_columns, n_channels), row-major.

    References
    ----------
    He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022.
    """
    quarter = n_channels // 4
    frequency = 10000.0 ** (-np.arange(quarter) / quarter)
    rows, columns = np.divmod(np.arange(n_rows * n_columns), n_columns)
    angles = [np.outer(coordinate, frequency) for coordinate in (columns, rows)]
    parts = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def build_encoder(model_args: dict[str, Any] | None = None) -> Any:
    """Build the untrained vision transformer with its fixed position embedding.

    Parameters
    ----------
    model_args
        Arguments of timm's `create_model` that differ from `MODEL_ARGS`.

    Returns
    -------
    timm VisionTransformer without a classifier; ``pos_embed`` asks for no gradient and its row
    for the class token is zero.
    """
    options = MODEL_ARGS | (model_args or {})
    encoder: Any = timm.create_model(ARCHITECTURE, num_classes=0, **options)
    n_rows, n_columns = encoder.patch_embed.grid_size
    with torch.no_grad():
        encoder.pos_embed.zero_()
        positions = sine_cosine_positions(n_rows, n_columns, encoder.embed_dim)
        encoder.pos_embed[0, 1:] = torch.from_numpy(positions)
    encoder.pos_embed.requires_grad_(False)
    return encoder


def patchify(pixels: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Cut images (n, channel, row, column) into patches (n, patch, value)."""
    n, n_channels, height, width = pixels.shape
    rows, columns = height // patch_size, width // patch_size
    cut = pixels.reshape(n, n_channels, rows, patch_size, columns, patch_size)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(n, rows * columns, patch_size**2 * n_channels)


def normalise(images: NDArray[np.uint8]) -> torch.Tensor:
    """Turn RGB bytes (n, row, column, channel) into float32 NCHW input."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)
    return (pixels - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(
        3, 1, 1
    )


def publish(encoder: torch.nn.Module, folder: Path, tag: str) -> None:
    """Write a float16 model as timm and the hub do.

    Raises
    ------
    ValueError
        A weight that is not finite in float16.
    """
    state = {name: value.half().contiguous() for name, value in encoder.state_dict().items()}
    broken = [name for name, value in state.items() if not math.isfinite(value.float().sum())]
    if broken:
        raise ValueError(f"weights that are not finite in float16: {', '.join(broken)}")
    side = MODEL_ARGS["img_size"]
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "num_features": N_CHANNELS,
        "global_pool": "token",
        "model_args": MODEL_ARGS,
        "pretrained_cfg": {
            "tag": tag,
            "custom_load": False,
            "input_size": [3, side, side],
            "fixed_input_size": True,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": "apache-2.0",
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "model.safetensors.partial"
    partial.write_bytes(save(state, metadata={"format": "pt"}))
    partial.replace(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
