"""Read the tensors of one weights file, and nothing but tensors.

``.safetensors`` through safetensors, everything else through ``torch.load(weights_only=True)``;
where that refuses an unknown name, through a loader to which all unknown names are inert.
"""

import argparse
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from soapworks.backbones.files.names import SAFETENSORS_SUFFIX, check_weights_suffix
from soapworks.backbones.files.pickles import CodeError, check_pickles, load_inert
from soapworks.errors import CheckpointError, NotACheckpointError

_RESAVE = "save the tensors alone, with safetensors or torch.save(model.state_dict(), ...)"


def read_weights_file(path: Path) -> Mapping[Any, Any]:
    """Read what a weights file holds; tensors stay mapped to the file where the format allows.

    Parameters
    ----------
    path
        Local file; its suffix (one of ``SUFFIXES``) says the format.

    Returns
    -------
    Mapping
        Flat name to tensor for safetensors; for the others whatever was saved, wrappers and
        training state included.

    Raises
    ------
    CheckpointError
        If the file is missing, empty, cut short, damaged, of another format, or would run code.
    """
    check_weights_suffix(path)
    try:
        n_bytes = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if n_bytes == 0:
        raise CheckpointError(f"{path} is empty (0 bytes): download or save it again")
    found = _recognise(head, n_bytes)
    if str(path).lower().endswith(SAFETENSORS_SUFFIX):
        if found == "torch":
            raise CheckpointError(f"{path} is a torch file, not safetensors: rename it to .pth")
        content = _read_safetensors(path)
    else:
        if found == "safetensors":
            raise CheckpointError(f"{path} holds safetensors: rename it to .safetensors")
        content = _read_torch(path, n_bytes)
    if not isinstance(content, Mapping):
        raise NotACheckpointError(
            f"{path} holds a {type(content).__name__}, not names and tensors: {_RESAVE}"
        )
    return content


def _recognise(head: bytes, n_bytes: int) -> str | None:
    if head.startswith((b"PK\x03\x04", b"\x80")) and head[8:] != b"{":
        return "torch"
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") <= n_bytes - 8:
        return "safetensors"
    return None


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path, n_bytes: int) -> Any:
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        _check_archive(path, n_bytes)
    try:
        check_pickles(path, is_zip=is_zip)
        try:
            # Training scripts store their argparse.Namespace beside the weights.
            with (
                torch.serialization.safe_globals([argparse.Namespace]),
                warnings.catch_warnings(action="ignore"),
            ):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        except pickle.UnpicklingError:
            return load_inert(path, mmap=is_zip)
    except CheckpointError:
        raise
    except CodeError as error:
        raise CheckpointError(
            f"{path} wants to run code when it is loaded ({error}), which is refused: if you trust "
            f"it, load it yourself and {_RESAVE}"
        ) from error
    except Exception as error:
        # The unpickler raises whatever damaged bytes lead it to; all of it means the same here.
        raise _damaged(path, error) from error


def _check_archive(path: Path, n_bytes: int) -> None:
    """Refuse archives whose records claim more bytes than the file has."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _damaged(path, error) from error
    if any(record.filename.endswith(("/constants.pkl", ".py")) for record in records):
        raise CheckpointError(f"{path} is a TorchScript program: {_RESAVE}")
    if any(record.filename.endswith(".npy") for record in records):
        raise CheckpointError(
            f"{path} is a NumPy archive, which is not read: convert it with timm and {_RESAVE}"
        )
    if sum(record.file_size for record in records) > n_bytes:
        raise CheckpointError(
            f"{path} declares more bytes than its {n_bytes} on disk: download or save it again"
        )


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = (str(error).splitlines() or [""])[0][:120].rstrip(" .") or type(error).__name__
    return CheckpointError(
        f"{path} is damaged, cut short or no weights file ({reason}): download or save it again"
    )
