"""Small real things for tests: a vision transformer of two blocks, photographs of 40 pixels."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

ARCHITECTURE = "vit_tiny_patch16_224"
MODEL_ARGS = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def build_model(seed: int = 0) -> torch.nn.Module:
    """Build the small transformer with random weights, blocks made to matter."""
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = timm.create_model(ARCHITECTURE, num_classes=0, **MODEL_ARGS)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def write_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Write the small transformer as a folder in the Hugging Face/timm form."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(build_model(seed).state_dict(), folder / "model.safetensors")
    config = {
        "architecture": ARCHITECTURE,
        "model_args": MODEL_ARGS,
        "pretrained_cfg": {
            "input_size": [3, 32, 32],
            "mean": MEAN,
            "std": STD,
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "num_classes": 0,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_photographs(folder: Path, n: int, *, first: int = 0) -> Path:
    """Write n small photographs, numbered from first; each depends on its number alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + n):
        rng = np.random.default_rng(number)
        coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:04d}.png")
    return folder
