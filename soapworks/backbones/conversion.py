"""Rename and reshape a checkpoint's tensors as timm does, and account for every one of them.

timm's conversions drop and resample in silence. Here each tensor of a file is followed through the
conversion: it is kept, ignored by a rule that has a name, or an error.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from soapworks.backbones.architectures import TimmModel
from soapworks.errors import CheckpointError

IGNORED = {
    r"(head|head_dist|fc|classifier|pre_logits)\.": "classifiers and projection heads (DINO, iBOT)",
    r"(dino_head|ibot_head|projectors?|predictor|lm_head)\.": "heads of pretraining",
    r"(attn_pool|fc_norm)\.": "pooling, where the model has a final norm of its own",
    r"local_cls_norm\.": "norm of DINOv3's local crops",
    r"(mask_token|masked_embed)$": "tokens that stand for masked patches",
    r"(decoder_\w+|decoder)(\.|$)": "decoders of masked autoencoders",
    r"(.*\.)?soap_head\w*\.": "SOAP heads that were attached",
    r"n_averaged$": "number of averaged models",
    r"(.*\.)?rope\w*\.(periods|bands|pos_embed|freqs_cos|freqs_sin|t_x|t_y)$": "compared",
    r"(.*\.)?(bias_mask|relative_position_index)$": "constants, compared",
}
"""Tensors that no feature depends on, by name, and why; all others must fit."""

_PATCHES = re.compile(
    r"(.*\.)?(patch_embed\.proj(ection)?|conv1|patchifier\.proj|vision_embed\.proj|embedder)\.weight"
)
_RESAMPLED = re.compile(r"(pos_embed|.*relative_position_bias_table)$")


class Converted(NamedTuple):
    """Tensors under timm's names."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...]
    """What was done to them that is worth a word."""


class _Followed(Tensor):
    """A tensor that knows which tensors of the file it was made of."""

    sources: frozenset[str] = frozenset()
    is_resampled = False

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        made_of = list(_followed([args, kwargs]))
        for tensor in _followed(result):
            tensor.sources = frozenset().union(*(t.sources for t in made_of), tensor.sources)
            resamples = func in (functional.interpolate, functional.grid_sample)
            tensor.is_resampled = resamples or any(t.is_resampled for t in made_of)
        return result


def _followed(value: Any) -> Iterator[_Followed]:
    if isinstance(value, _Followed):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _followed(item)
    elif isinstance(value, dict):
        yield from _followed(list(value.values()))


def is_ignored(name: str) -> bool:
    """Return whether a rule of ``IGNORED`` names a tensor.

    Examples
    --------
    >>> is_ignored("head.weight"), is_ignored("blocks.0.attn.qkv.bias")
    (True, False)
    """
    return re.match("|".join(IGNORED), name) is not None


def convert(name: str, model: TimmModel, tensors: Mapping[str, Tensor], *, where: str) -> Converted:
    """Convert a checkpoint's tensors to timm's names.

    Parameters
    ----------
    name
        timm's name of the architecture.
    model
        The model that they are for, without weights.
    tensors
        Name to tensor, without prefixes.
    where
        Beginning of messages: whose weights do not fit.

    Raises
    ------
    CheckpointError
        If weights would be resampled or dropped: patches of another size, trained biases that the
        architecture lacks, anything that no rule names.
    Exception
        Whatever timm raises of weights that it does not understand.
    """
    tensors = _renamed(tensors, where)
    _check_patches(name, model, tensors, where)
    followed: dict[str, Any] = {}
    for key, tensor in tensors.items():
        followed[key] = tensor.as_subclass(_Followed)
        followed[key].sources = frozenset([key])
    if any(re.search(r"(^register_tokens|\.mlp\.w12\.weight)$", key) for key in tensors):
        # By this token timm recognises DINOv2, also where it was left out.
        followed.setdefault("mask_token", torch.zeros(0))
    # timm's conversion changes the mapping it is given, may print, and warns of its own code.
    with redirect_stdout(io.StringIO()), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = _conversion(name)(followed, model)
    converted = {key: tensor for key, tensor in converted.items() if isinstance(tensor, Tensor)}
    used = {
        source
        for tensor in converted.values()
        for source in getattr(tensor, "sources", frozenset[str]())
    }
    _check_dropped(name, tensors, tensors.keys() - used, used, where)
    resampled = [k for k, tensor in converted.items() if getattr(tensor, "is_resampled", False)]
    refused = [key for key in resampled if not _RESAMPLED.match(key) and "flexi" not in name]
    if refused:
        raise CheckpointError(f"{where}: {refused[0]} would be resampled")
    grid = _sides(tuple(model.patch_embed.grid_size))
    notes = (f"its position embedding is resampled to {grid} patches",) if resampled else ()
    return Converted({k: tensor.as_subclass(Tensor) for k, tensor in converted.items()}, notes)


def check_constants(model: TimmModel, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Compare constants of a file with those that the model computes anew.

    Raises
    ------
    CheckpointError
        If rotary frequencies or the like differ by more than bfloat16 rounds.
    """
    rope = getattr(model, "rope", None)
    own = {f"rope.{key}": buffer for key, buffer in rope.named_buffers()} if rope else {}
    own |= dict(model.named_buffers())
    if "rope.pos_embed" in own:
        own["rope.freqs_sin"], own["rope.freqs_cos"] = own["rope.pos_embed"].chunk(2, dim=-1)
    for name, tensor in tensors.items():
        if not is_ignored(name):
            continue
        key = re.sub(r"^(.*\.)?rope\w*\.", "rope.", name)
        wanted = own.get(key)
        is_rotary = key.startswith("rope.")
        if is_rotary and rope is None:
            raise CheckpointError(f"{where}: it has no rotary embedding, but they have ({name})")
        # Tables of another grid are computed anew; frequencies have no grid.
        has_grid = not key.endswith((".periods", ".bands"))
        if wanted is None or (has_grid and wanted.shape != tensor.shape):
            continue
        if wanted.shape != tensor.shape or not torch.allclose(
            tensor.double(), wanted.double(), rtol=1e-2, atol=1e-2
        ):
            raise CheckpointError(
                f"{where}: {name} differs from the constant that the architecture computes: is it "
                "of another base?"
            )


def _conversion(name: str) -> Callable[[dict[str, Any], TimmModel], dict[str, Any]]:
    import timm

    module = import_module(timm.models.model_entrypoint(name).__module__)
    convert = module.checkpoint_filter_fn
    # What timm binds for single variants, out of reach behind their entry points.
    if module.__name__ == "timm.models.deit":
        return lambda state, model: convert(state, model, adapt_layer_scale=True)
    if "flexi" in name:
        return lambda state, model: convert(state, model, interpolation="bilinear", antialias=False)
    return convert


def _renamed(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Take the chunks of DINOv2's blocks out of names: ``blocks.{chunk}.{i}`` is ``blocks.{i}``."""
    chunked = re.compile(r"blocks\.\d+\.(\d+)\.")
    if not any(chunked.match(name) for name in tensors):
        return dict(tensors)
    plain = {chunked.sub(r"blocks.\1.", name): tensor for name, tensor in tensors.items()}
    if len(plain) < len(tensors):
        raise CheckpointError(f"{where}: chunks of its blocks share a number")
    return plain


def _check_patches(name: str, model: TimmModel, tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse patches of another size, which timm resamples; FlexiViT is trained for that."""
    wanted = tuple(model.patch_embed.proj.weight.shape[-2:])
    for key, tensor in tensors.items():
        if not _PATCHES.fullmatch(key) or tensor.ndim not in (2, 4) or "flexi" in name:
            continue
        flat = round((tensor.shape[-1] / 3) ** 0.5)
        sides = (flat, flat) if tensor.ndim == 2 else tuple(tensor.shape[-2:])
        if sides != wanted:
            raise CheckpointError(
                f"{where}: its patches have {_sides(sides)} pixels, those of {name} "
                f"{_sides(wanted)}"
            )


def _sides(sides: tuple[int, ...]) -> str:
    return " x ".join(map(str, sides))


def _check_dropped(
    name: str,
    tensors: Mapping[str, Tensor],
    dropped: Iterable[str],
    used: set[str],
    where: str,
) -> None:
    """Refuse what timm's conversion drops unless a rule names it."""
    import timm

    tower = _common_tower(used)
    lost = []
    for key in sorted(dropped):
        if is_ignored(key.removeprefix(tower)) or not key.startswith(tower):
            continue
        if tower == "beit3." and (".B." in key or key.startswith("beit3.text_embed.")):
            continue  # the tower of texts
        if key.endswith("qkv.bias") and not _trained_bias(key, tensors).any():
            continue
        lost.append(key)
    biases = [key for key in lost if key.endswith("qkv.bias")]
    if biases and timm.is_model(f"{name}_qkvb"):
        raise CheckpointError(
            f"{where}: it has no trained query and value biases ({biases[0]}); use --architecture "
            f"{name}_qkvb"
        )
    if lost:
        shown = ", ".join(lost[:4]) + (f" and {len(lost) - 4} more" if len(lost) > 4 else "")
        raise CheckpointError(f"{where}: {len(lost)} would be dropped ({shown})")
    for key in used:
        # The conversion splits a fused bias and drops that of the keys, which DINOv3 masks.
        is_split = key.endswith("qkv.bias") and name.endswith("_qkvb")
        if is_split and _trained_bias(key, tensors).chunk(3)[1].any():
            raise CheckpointError(f"{where}: trained biases of keys would be dropped ({key})")


def _trained_bias(key: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return a fused bias as it counts: DINOv3 masks the biases of keys."""
    bias = tensors[key]
    mask = tensors.get(f"{key}_mask")
    return bias if mask is None or mask.shape != bias.shape else bias * mask.nan_to_num(0)


def _common_tower(used: set[str]) -> str:
    """Return the tower of a model of several in which all weights lie that were used."""
    for prefix in (
        *("module.visual.trunk.", "visual.trunk.", "module.visual.", "visual."),
        *("vision_encoder.", "radio_model.model.", "beit3."),
    ):
        if used and all(key.startswith(prefix) for key in used):
            return prefix
    return ""
