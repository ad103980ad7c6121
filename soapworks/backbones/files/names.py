"""Names that checkpoints have in folders; needs no torch."""

from collections.abc import Sequence
from pathlib import Path

from soapworks.errors import CheckpointError

SAFETENSORS_SUFFIX = ".safetensors"
SUFFIXES = (SAFETENSORS_SUFFIX, ".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
"""Endings of weights files, in lower case."""

CONFIG_NAME = "config.json"
"""The configuration in a folder of the Hugging Face form."""

WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.bin")
"""Names of weights in such folders and on the hub, the preferred one first."""

INDEX_NAMES = tuple(f"{name}.index.json" for name in WEIGHTS_NAMES)
"""Names of the list of shards that weights in several files have."""


def has_weights_suffix(path: Path | str) -> bool:
    """Return whether a file's name ends like a weights file's.

    Examples
    --------
    >>> has_weights_suffix("step_100.PTH"), has_weights_suffix("step_100.txt")
    (True, False)
    """
    return str(path).lower().endswith(SUFFIXES)


def check_weights_suffix(path: Path | str) -> None:
    """Raise CheckpointError unless a file's name ends like a weights file's."""
    if not has_weights_suffix(path):
        raise CheckpointError(
            f"{path} has no suffix of a weights file ({', '.join(SUFFIXES)}): rename it to what it "
            "is, or name the right file"
        )


def list_weights(names: Sequence[str], folder: object) -> str:
    """Return which weights files a folder holds, in words."""
    near = sorted(name for name in names if has_weights_suffix(name))[:8]
    if not near:
        return f"{folder} holds no weights files"
    return f"the weights files in {folder} are {', '.join(near)}"


def choose_weights(names: Sequence[str], folder: str) -> tuple[str, str | None]:
    """Return which of a folder's files are its weights and its configuration, if it has one.

    Parameters
    ----------
    names
        Names of the files in it, sorted.
    folder
        What to call the folder in messages.

    Raises
    ------
    CheckpointError
        If there are no weights or several that could be meant.

    Examples
    --------
    >>> choose_weights(["config.json", "model.safetensors", "optimizer.bin"], "runs/7")
    ('model.safetensors', 'config.json')
    """
    config = CONFIG_NAME if CONFIG_NAME in names else None
    for name in (*WEIGHTS_NAMES, *INDEX_NAMES):
        if name in names:
            return name, config
    others = [name for name in names if has_weights_suffix(name)]
    if len(others) != 1:
        what = ", ".join(others[:8]) if others else "none"
        raise CheckpointError(
            f"{folder} must hold one weights file ({' or '.join(WEIGHTS_NAMES)}; suffixes "
            f"{', '.join(SUFFIXES)}), found: {what}; name the file itself"
        )
    return others[0], config
