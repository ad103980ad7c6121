"""Fit a checkpoint's tensors to an architecture, or say exactly why they do not fit."""

import re
from collections.abc import Mapping
from contextlib import suppress

import torch
from torch import Tensor

from soapworks.backbones.architectures import Architecture, TimmModel, resolve_architecture
from soapworks.backbones.construction import (
    construct,
    default_image_size,
    has_final_norm,
    patch_size_of,
)
from soapworks.backbones.conversion import Converted, check_constants, convert, is_ignored
from soapworks.backbones.info import Size
from soapworks.errors import CheckpointError, InputError

_MISFITS = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
_SYNONYMS = {"gamma": "weight", "weight": "gamma", "beta": "bias"}
_REGISTERS = re.compile(r"(reg_token|register_tokens|storage_tokens)$")
_MAX_TRIED = 16
_WIDTHS = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1536: "giant"}


def load_weights(
    architecture: Architecture, image_size: Size, tensors: Mapping[str, Tensor], *, where: str
) -> tuple[TimmModel, tuple[str, ...]]:
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

    Returns
    -------
    tuple
        The model, and what was done to the weights that is worth a word.

    Raises
    ------
    CheckpointError
        If anything is missing, unexpected, of another shape, or would be dropped or resampled; the
        message names architectures that fit.
    """
    model = construct(architecture, image_size)
    what = f"the weights of {where} do not fit {architecture.name}"
    try:
        fitting, notes = _fit(model, architecture, tensors, what)
        if any(buffer.is_meta for buffer in model.buffers()):
            # Buffers outside the weights (rotary frequencies) exist on a real device only.
            model = construct(architecture, image_size, device="cpu")
        check_constants(model, tensors, where=what)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_describe(model, architecture.name, tensors)}") from error
    weights = {name: tensor.to(torch.float32, copy=True) for name, tensor in fitting.items()}
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(False), notes


def _fit(
    model: TimmModel, architecture: Architecture, tensors: Mapping[str, Tensor], what: str
) -> Converted:
    _note_trained_size(model, architecture, tensors)
    try:
        converted, notes = convert(architecture.name, model, tensors, where=what)
    except CheckpointError:
        raise
    except _MISFITS as error:
        # The names and shapes say more than the place where timm stumbled over them.
        _compare(model, _select(model, tensors), what)
        raise CheckpointError(f"{what} ({error})") from error
    fitting = _select(model, converted)
    _compare(model, fitting, what)
    return Converted(fitting, notes)


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
    for name in [name for name in state if name not in expected]:
        # Old pickles call the scale of a norm gamma, transformers that of LayerScale weight.
        stem, _, last = name.rpartition(".")
        other = f"{stem}.{_SYNONYMS.get(last, last)}"
        if other in expected and other not in state:
            state[other] = state.pop(name)
    return {n: tensor for n, tensor in state.items() if n in expected or not is_ignored(n)}


def _compare(model: TimmModel, state: Mapping[str, Tensor], what: str) -> None:
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
        raise CheckpointError(f"{what}: {'; '.join(problems)}")


def _shorten(names: list[str], n_shown: int = 4) -> str:
    more = len(names) - n_shown
    return ", ".join(names[:n_shown]) + (f" and {more} more" if more > 0 else "")


def _describe(model: TimmModel, given: str, tensors: Mapping[str, Tensor]) -> str:
    """Return what the weights look like, how that differs, and which of timm's models fit."""
    patches = next((t for n, t in tensors.items() if n.endswith("patch_embed.proj.weight")), None)
    blocks = [int(m[1]) for name in tensors if (m := re.search(r"\bblocks\.(\d+)\.", name))]
    if patches is None or patches.ndim != 4 or not blocks:
        return "; they do not look like a vision transformer with timm's names"
    registers = next((t for n, t in tensors.items() if _REGISTERS.search(n)), None)
    own_registers = getattr(model, "reg_token", None)
    facts: list[tuple[str, int, int]] = [
        ("{} channels", patches.shape[0], model.embed_dim),
        ("{} blocks", max(blocks) + 1, len(model.blocks)),
        ("patches of {} pixels", patches.shape[-1], patch_size_of(model)[-1]),
        (
            "{} registers",
            0 if registers is None else registers.shape[1],
            0 if own_registers is None else own_registers.shape[1],
        ),
    ]
    looks = ", ".join(
        words.format(found) + (f" (not {wanted})" if found != wanted else "")
        for words, found, wanted in facts
        if found or wanted
    )
    names = _fitting_names(patches, given, tensors)
    return f"; they have {looks}" + (f": try --architecture {' or '.join(names)}" if names else "")


def _fitting_names(patches: Tensor, given: str, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return plain names of timm, other than the one given, that these weights fit."""
    import timm

    width, patch = patches.shape[0], patches.shape[-1]
    names = set(timm.list_models(f"*_{_WIDTHS.get(width, '?')}_patch{patch}_*")) - {given}
    fitting: list[str] = []
    for name in sorted(names, key=lambda name: (len(name), name))[:_MAX_TRIED]:
        with suppress(CheckpointError, InputError):
            architecture = resolve_architecture(name)
            model = construct(architecture, default_image_size(architecture))
            _fit(model, architecture, tensors, "")
            fitting.append(name)
        if len(fitting) == 3:
            break
    return fitting
