"""Small models of the architectures that the method is used on; none has trained weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

# Two blocks and few channels keep every special feature (prefix tokens, RoPE, LayerScale, qkv
# biases, pooling) at a fraction of the cost.
SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}

# architecture with tag -> number of prefix tokens
PAPER = {
    "vit_base_patch16_224.mae": 1,
    "vit_base_patch16_dinov3.lvd1689m": 5,
    "vit_base_patch16_224": 1,  # iBOT's checkpoint goes into it
    "vit_base_patch14_reg4_dinov2.lvd142m": 5,
    "vit_huge_patch14_gap_224.in1k_ijepa": 0,
    "vit_base_patch16_224.dino": 1,
    "deit3_base_patch16_224.fb_in1k": 1,
}


def plain_model(architecture: str, *, seed: int = 0, **arguments: Any) -> nn.Module:
    """Build timm's own model with parameters that make every one of them matter."""
    generator = torch.Generator().manual_seed(seed)
    model = timm.create_model(architecture, **(SMALL | {"num_classes": 0} | arguments)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + 0.1)
    return model


@pytest.fixture
def save_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder in the Hugging Face/timm form."""
    import json

    def save(
        model: nn.Module, architecture: str, *, pretrained_cfg: Any = None, **model_args: Any
    ) -> Path:
        folder = tmp_path / "folder"
        folder.mkdir(exist_ok=True)
        config: dict[str, Any] = {
            "architecture": architecture,
            "model_args": SMALL | model_args,
            "num_classes": 0,
        }
        if pretrained_cfg is not None:
            config["pretrained_cfg"] = pretrained_cfg
        (folder / "config.json").write_text(json.dumps(config))
        tensors = {name: t.contiguous() for name, t in model.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")
        return folder

    return save
