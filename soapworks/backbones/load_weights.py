"""Fit a checkpoint's tensors to an architecture, or say exactly why they do not fit."""

import io
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from soapworks.backbones.architectures import Architecture, TimmModel
from soapworks.backbones.construction import (
    construct,
    default_image_size,
    has_final_norm,
    patch_size_of,
)
from soapworks.backbones.info import Size
from soapworks.errors import CheckpointError

IGNORED = {
    r"(head|head_dist|fc|classifier|pre_logits)\.": "classifiers and projection heads (DINO, iBOT)",
    r"(dino_head|ibot_head|projectors?|predictor|lm_head)\.": "heads of pretraining",
    r"(attn_pool|fc_norm)\.": "pooling, where the model has a final norm of its own",
    r"(mask_token|masked_embed)$": "tokens that stand for masked patches",
    r"(decoder_\w+|decoder)(\.|$)": "decoders of masked autoencoders",
    r"(.*\.)?(rope\w*\.periods|bias_mask|relative_position_index)$": "constants, computed anew",
}
"""Tensors that no feature depends on, by name, and why; all others must fit."""

_MISFITS = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
_WIDTHS = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1536: "giant"}


def load_weights(
    architecture: Architecture, image_size: Size, tensors: Mapping[str, Tensor], *, where: str
) -> TimmModel:
    """Build a model in float32 on the CPU with these weights.

    timm's own conversion runs first (other authors' names, position embeddings resampled to the
    grid of ``image_size``). Everything is compared before memory is allocated.

    Parameters
    ----------
    architecture, image_size
        What to build; (height, width) in pixels.
    tensors
        Name to floating tensor, without prefixes.
    where
        What the weights are called in messages.

    Raises
    ------
    CheckpointError
        If anything is missing, unexpected or of another shape.
    """
    model = construct(architecture, image_size)
    _note_trained_size(model, architecture, tensors)
    what = f"the weights of {where} do not fit {architecture.name}"
    try:
        # timm's conversion changes the mapping it is given, may print, and warns of its own code.
        with redirect_stdout(io.StringIO()), torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"timm\.")
            converted = _conversion(architecture.name)(dict(tensors), model)
    except _MISFITS as error:
        # The names and shapes say more than the place where timm stumbled over them.
        _compare(model, _select(model, tensors), what, tensors)
        raise CheckpointError(f"{what} ({error}){_guess(tensors)}") from error
    fitting = _select(model, converted)
    _compare(model, fitting, what, tensors)
    if any(buffer.is_meta for buffer in model.buffers()):
        # Buffers outside the weights (rotary frequencies) exist on a real device only.
        model = construct(architecture, image_size, device="cpu")
    weights = {name: tensor.to(torch.float32, copy=True) for name, tensor in fitting.items()}
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(False)


def _conversion(name: str) -> Callable[[dict[str, Any], TimmModel], dict[str, Tensor]]:
    import timm

    module = import_module(timm.models.model_entrypoint(name).__module__)
    convert = module.checkpoint_filter_fn
    # What timm binds for single variants, out of reach behind their entry points.
    if module.__name__ == "timm.models.deit":
        return lambda state, model: convert(state, model, adapt_layer_scale=True)
    if "flexi" in name:
        return lambda state, model: convert(state, model, interpolation="bilinear", antialias=False)
    return convert


def _note_trained_size(
    model: TimmModel, architecture: Architecture, tensors: Mapping[str, Tensor]
) -> None:
    """Tell timm the image size that the position embedding was trained at.

    timm compares numbers of tokens: a grid of other sides but as many tokens would be taken over
    without being resampled.
    """
    embedding = tensors.get("pos_embed")
    if embedding is None or embedding.ndim != 3:
        return
    has_prefix = not getattr(model, "no_embed_class", False)
    n_patches = embedding.shape[1] - (model.num_prefix_tokens if has_prefix else 0)
    height, width = patch_size_of(model)
    side = round(max(n_patches, 0) ** 0.5)
    for size in (default_image_size(architecture), (side * height, side * width)):
        if (size[0] // height) * (size[1] // width) == n_patches:
            model.pretrained_model_args = {"img_size": size}
            return


def _select(model: TimmModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out what no feature depends on; a norm after pooling becomes the final norm."""
    expected = model.state_dict().keys()
    state = dict(state)
    if has_final_norm(model) and not any(name.startswith("norm.") for name in state):
        state = {re.sub(r"^fc_norm\.", "norm.", name): tensor for name, tensor in state.items()}
    ignored = re.compile("|".join(IGNORED))
    return {n: tensor for n, tensor in state.items() if n in expected or not ignored.match(n)}


def _compare(
    model: TimmModel, state: Mapping[str, Tensor], what: str, tensors: Mapping[str, Tensor]
) -> None:
    expected = model.state_dict()
    reshaped = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(wanted.shape)}"
        for name, wanted in expected.items()
        if name in state and state[name].shape != wanted.shape
    ]
    integers = [
        f"{name} is {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in state.items()
        if name in expected and not tensor.is_floating_point()
    ]
    problems = [
        f"{len(names)} {label} ({_shorten(names)})"
        for label, names in (
            ("missing", [name for name in expected if name not in state]),
            ("unexpected", [name for name in state if name not in expected]),
            ("of another shape", reshaped),
            ("no floating point numbers", integers),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"{what}: {'; '.join(problems)}{_guess(tensors)}")


def _shorten(names: list[str], n_shown: int = 4) -> str:
    more = len(names) - n_shown
    return ", ".join(names[:n_shown]) + (f" and {more} more" if more > 0 else "")


def _guess(tensors: Mapping[str, Tensor]) -> str:
    """Say what the weights look like and which plain names of timm would fit that."""
    import timm

    patches = next((t for n, t in tensors.items() if n.endswith("patch_embed.proj.weight")), None)
    blocks = [int(m[1]) for name in tensors if (m := re.search(r"\bblocks\.(\d+)\.", name))]
    if patches is None or patches.ndim != 4 or not blocks:
        return "; they do not look like a vision transformer with timm's names"
    width, patch = patches.shape[0], patches.shape[-1]
    n_registers = next(
        (t.shape[1] for n, t in tensors.items() if re.search(r"(reg_token|register_tokens)$", n)),
        0,
    )
    registers = f"reg{n_registers}_*" if n_registers else ""
    names = timm.list_models(f"vit_{_WIDTHS.get(width, '?')}_patch{patch}_{registers}*")
    names = [n for n in names if bool(n_registers) == ("_reg" in n) and "dinov3" not in n]
    hint = f": try --architecture {' or '.join(sorted(names, key=len)[:3])}" if names else ""
    return (
        f"; they have {width} channels, {max(blocks) + 1} blocks, patches of {patch} pixels"
        f"{f', {n_registers} registers' if n_registers else ''}{hint}"
    )
