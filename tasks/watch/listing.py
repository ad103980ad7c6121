"""List the checkpoints in a folder, on a disk or behind a URL, without reading one.

At any depth, checkpoints are:

* a folder in the Hugging Face form, with ``model.safetensors`` or ``pytorch_model.bin`` (or the
  index of a checkpoint in shards): nothing else in it is a checkpoint;
* any other file with the suffix of a weights file.

Ignored are names that are hidden (``.name``) or temporary (``.tmp``, ``.part``, ``.partial``,
``~`` at the end), empty files, symbolic links (``last.pt`` is listed by its own name), and the
files in which trainers keep other states than a model's (``optimizer.pt``, ``rng_state_0.pth``).
A marker is a file ``NAME.done`` beside the checkpoint ``NAME``.
"""

import hashlib
import json
from collections.abc import Container, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from soapworks.backbones.files.names import (
    CONFIG_NAME,
    INDEX_NAMES,
    WEIGHTS_NAMES,
    has_weights_suffix,
)
from soapworks.errors import InputError, SoapworksError, UnreachableError
from soapworks.remote import RemoteError, in_short
from soapworks.storage_schemas.locations.location import Location
from soapworks.tasks.watch.rules import CheckpointFile
from soapworks.walking import walk

MARKER = ".done"
"""Suffix of a marker's name."""

_TEMPORARY = (".tmp", ".temp", ".part", ".partial", ".swp", "~")

NO_CHECKPOINTS = (
    *("optimizer.pt", "optimizer.bin", "scheduler.pt", "scheduler.bin", "scaler.pt"),
    *("rng_state*.pth", "training_args.bin", "*optim_states.pt", "sampler*.bin"),
)
"""Globs on the names (lower case) of trainers' files that hold no model: never opened."""

Files = Mapping[str, tuple[int, str]]
"""Path below the folder -> bytes and fingerprint."""


def list_checkpoints(folder: Location, pattern: str = "*") -> list[CheckpointFile]:
    """Return the checkpoints in a folder, sorted by path.

    Parameters
    ----------
    folder
        The folder.
    pattern
        Glob that the path below the folder or its last part must match, case included; ``*``
        stands for ``/`` as well.

    Raises
    ------
    InputError
        A folder or bucket that is missing, is a file, or must not be listed.
    UnreachableError
        A storage that cannot be reached now.
    """
    return [
        file
        for file in checkpoints_among(_files_in(folder))
        if fnmatchcase(file.path, pattern) or fnmatchcase(file.path.rpartition("/")[2], pattern)
    ]


def checkpoints_among(files: Files) -> list[CheckpointFile]:
    """Return the checkpoints among the files of a folder, sorted by path.

    Parameters
    ----------
    files
        Path below the folder -> bytes and fingerprint.
    """
    visible = {path: facts for path, facts in files.items() if not _is_ignored(path)}
    whole = {
        path.rpartition("/")[0]
        for path in visible
        if "/" in path and path.rpartition("/")[2] in (*WEIGHTS_NAMES, *INDEX_NAMES)
    }
    found = []
    for folder in whole:
        if _is_inside(folder, whole):
            continue
        weights = next(
            path
            for name in (*WEIGHTS_NAMES, *INDEX_NAMES)
            if (path := f"{folder}/{name}") in visible
        )
        facts = visible[weights]
        config = visible.get(f"{folder}/{CONFIG_NAME}", (0, "none"))
        # Its other files (optimizer, progress of the training) do not change the weights.
        fingerprint = f"{facts[1]} {CONFIG_NAME}={config[1]}"
        if weights.endswith(INDEX_NAMES):
            shards = sorted(
                f"{path} {visible[path][1]}"
                for path in visible
                if path.rpartition("/")[0] == folder and has_weights_suffix(path)
            )
            fingerprint += f" shards={hashlib.sha256(json.dumps(shards).encode()).hexdigest()}"
        found.append((folder, facts[0], fingerprint))
    for path, (n_bytes, fingerprint) in visible.items():
        if has_weights_suffix(path) and not _is_inside(path, whole):
            found.append((path, n_bytes, fingerprint))
    return [
        CheckpointFile(path, fingerprint, n_bytes, visible.get(path + MARKER, (0, ""))[1])
        for path, n_bytes, fingerprint in sorted(found)
        if n_bytes
    ]


def _is_inside(path: str, folders: Container[str]) -> bool:
    """Return whether a path lies below one of the folders."""
    parts = path.split("/")
    return any("/".join(parts[:n]) in folders for n in range(1, len(parts)))


def _is_ignored(path: str) -> bool:
    parts = path.lower().split("/")
    return any(fnmatchcase(parts[-1], name) for name in NO_CHECKPOINTS) or any(
        part in ("", "..") or part.startswith(".") or part.endswith(_TEMPORARY) for part in parts
    )


def _files_in(folder: Location) -> Files:
    if folder.local_path and not Path(folder.url).exists():
        raise InputError(f"there is no folder {folder}: name the one that checkpoints are saved to")
    try:
        return {
            entry.path: (entry.size, entry.fingerprint)
            for entry in walk(folder.url)
            if entry.kind == "file"
        }
    except NotADirectoryError as error:
        raise InputError(
            f"{folder} is a file: name the folder that checkpoints are saved to"
        ) from error
    except RemoteError as error:
        raise InputError(f"{folder} cannot be listed: {error}") from error
    except InputError:
        raise
    except Exception as error:  # remote file systems raise their own libraries' exceptions
        raise _listing_error(folder, error) from error


def _listing_error(folder: Location, error: Exception) -> SoapworksError:
    reason = in_short(error)
    if folder.local_path and isinstance(error, PermissionError):
        return InputError(
            f"{error.filename or folder} cannot be listed: permission denied; check the rights of "
            "this user"
        )
    if isinstance(error, FileNotFoundError) and not folder.local_path:
        return InputError(f"{folder} cannot be listed: {reason}; check the address")
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        return InputError(
            f"{folder} cannot be listed: {reason}; check the credentials and rights for it (for "
            "S3: AWS_ACCESS_KEY_ID, AWS_PROFILE)"
        )
    return UnreachableError(f"{folder} cannot be listed: {reason}")
