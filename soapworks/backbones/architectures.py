"""Names of architectures and what timm or a ``config.json`` says about them."""

import dataclasses
import difflib
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from soapworks.errors import CheckpointError

TimmModel = Any
"""A module of timm, which is untyped; torch types every attribute as tensor or module."""

FAMILIES = (
    "timm.models.vision_transformer",
    "timm.models.deit",
    "timm.models.eva",
    "timm.models.beit",
)
"""timm modules whose models are plain vision transformers: one grid, prefix tokens in front."""

# Arguments that would load weights, choose another kind of model or place it; never from a file.
_REFUSED_ARGS = frozenset(
    {
        "cache_dir",
        "checkpoint_path",
        "device",
        "dtype",
        "features_only",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_filter_fn",
        "pretrained_model_args",
        "pretrained_strict",
        "pruned",
        "use_naflex",
    }
)
# Arguments of the classifier or of training, which features do not depend on; set here instead.
_IGNORED_ARGS = frozenset({"dynamic_img_size", "num_classes"})
_MAX_DEPTH = 1_000
_MAX_NUMBER = 100_000
_MAX_CONFIG_BYTES = 10 * 2**20


class Architecture(NamedTuple):
    """What to build and how its images are normalised."""

    name: str
    """timm's name without the tag of its weights."""
    model_args: dict[str, Any]
    """Arguments of the model's constructor beyond those of the name."""
    pretrained_cfg: dict[str, Any]
    """Input size, mean, std, interpolation, crop: plain JSON types."""


def is_timm_name(name: str) -> bool:
    """Whether timm has a model of this name (tag aside)."""
    import timm

    return timm.is_model(name.partition(".")[0])


def resolve_architecture(name: str, *, model_args: dict[str, Any] | None = None) -> Architecture:
    """Resolve a timm name, with or without the tag of its weights.

    The tag chooses mean, std and input size. Without one they are those of timm's default
    weights, which need not be right for others: ``vit_base_patch16_224`` says mean 0.5, so a
    checkpoint trained with ImageNet's statistics wants ``vit_base_patch16_224.dino``.

    Raises
    ------
    CheckpointError
        If timm has no such model or tag, it is no plain vision transformer, or an argument is
        refused.
    """
    import timm

    bare, _, tag = name.partition(".")
    if not timm.is_model(bare):
        close = difflib.get_close_matches(bare, timm.list_models(), n=3, cutoff=0.6)
        hint = f"; close are {', '.join(close)}" if close else ""
        raise CheckpointError(f"timm has no architecture {bare[:80]!r}{hint}")
    entrypoint = timm.models.model_entrypoint(bare)
    if entrypoint.__module__ not in FAMILIES:
        raise CheckpointError(
            f"{bare} is no plain vision transformer: only timm's families "
            f"{', '.join(f.rpartition('.')[2] for f in FAMILIES)} have a grid of patch tokens in "
            "every block"
        )
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = [n.partition(".")[2] for n in timm.list_pretrained(f"{bare}.*")]
        raise CheckpointError(
            f"timm knows no weights {tag!r} of {bare}; it has {', '.join(tags) or 'none'}"
        ) from error
    plain = _plain(config.to_dict()) if config is not None else {}
    return Architecture(bare, check_model_args(model_args or {}, where=name), plain)


def read_config(path: Path) -> Architecture:
    """Read the ``config.json`` of a folder in the Hugging Face/timm form.

    Raises
    ------
    CheckpointError
        If it is no JSON, too large, names no timm architecture or asks for refused arguments.
    """
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path} is larger than {_MAX_CONFIG_BYTES} bytes: no config")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    name = config.get("architecture") if isinstance(config, dict) else None
    if not isinstance(name, str):
        raise CheckpointError(
            f"{path} names no timm 'architecture' (a configuration of another library?): pass the "
            "weights file itself with --architecture"
        )
    known = resolve_architecture(name)
    # Older exports keep the fields of pretrained_cfg at the top level.
    own = config.get("pretrained_cfg", config)
    args = config.get("model_args") or {}
    if not isinstance(own, dict) or not isinstance(args, dict):
        raise CheckpointError(f"{path}: 'pretrained_cfg' and 'model_args' must be JSON objects")
    return Architecture(
        known.name,
        check_model_args(args, where=str(path)),
        known.pretrained_cfg | _known_fields(own, where=str(path)),
    )


def check_model_args(args: dict[str, Any], *, where: str) -> dict[str, Any]:
    """Return the arguments that shape the backbone, or raise CheckpointError."""
    refused = sorted(_REFUSED_ARGS & args.keys())
    if refused:
        raise CheckpointError(f"{where}: model_args must not set {', '.join(refused)}: remove it")
    if args.get("in_chans", 3) != 3:
        raise CheckpointError(
            f"{where}: the model takes {args['in_chans']} image channels, but only RGB (3) is read"
        )
    for name, value in args.items():
        limit = _MAX_DEPTH if name == "depth" else _MAX_NUMBER
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int | float) and not abs(number) <= limit:
                raise CheckpointError(f"{where}: model_args {name}={value} is beyond {limit}")
    return {name: value for name, value in args.items() if name not in _IGNORED_ARGS}


def _known_fields(config: dict[str, Any], *, where: str) -> dict[str, Any]:
    from timm.models import PretrainedCfg

    # Where the weights come from is the folder's business, not its configuration's.
    elsewhere = {"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source"}
    fields = {field.name for field in dataclasses.fields(PretrainedCfg)} - elsewhere
    own = {k: v for k, v in config.items() if k in fields and v is not None}
    for name in own.keys() & _FIELDS.keys():
        wanted, is_right = _FIELDS[name]
        if not is_right(own[name]):
            raise CheckpointError(f"{where}: {name} must be {wanted}, got {own[name]!r:.80}")
    return _plain(own)


def _are_numbers(values: Any, *, above: float = -math.inf) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) == 3
        and all(_is_number(value) and value > above for value in values)
    )


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= _MAX_NUMBER  # which NaN is not
    )


def _are_sides(values: Any) -> bool:
    return _are_numbers(values, above=0) and all(isinstance(value, int) for value in values)


_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "mean": ("three numbers", _are_numbers),
    "std": ("three numbers above 0", partial(_are_numbers, above=0)),
    "input_size": ("three whole numbers above 0", _are_sides),
    "crop_pct": ("a number", _is_number),
    "interpolation": ("a name", lambda value: isinstance(value, str)),
    "crop_mode": ("a name", lambda value: isinstance(value, str)),
}
"""What the fields of a configuration that are used must be, in words and as a check."""


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}
