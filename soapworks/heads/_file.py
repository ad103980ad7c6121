"""The head's file: safetensors, byte for byte the same for the same head.

The safetensors library orders metadata differently in every process, so the header is written here
(it is a length, a JSON object and the tensors' bytes), and read back by the library.
"""

import json
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from soapworks.errors import HeadError, MissingProductError, StoreError

FORMAT = "soapworks.heads.head"
VERSION = "1"

_CURE = "export the head again"


def encode(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """Return the file's bytes: float32 tensors and sorted metadata with format and version."""
    header: dict[str, Any] = {"__metadata__": {**metadata, "format": FORMAT, "version": VERSION}}
    payload = b""
    for name, tensor in sorted(tensors.items()):
        data = np.ascontiguousarray(tensor, "<f4").tobytes()
        offsets = [len(payload), len(payload) + len(data)]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets}
        payload += data
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    # Spaces up to a multiple of 8, so that the tensors are aligned when the file is mapped.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + payload


def decode(data: bytes, where: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return float32 tensors by name, and the metadata without format and version.

    Raises
    ------
    HeadError
        For bytes that are not safetensors, another format or version, missing or unexpected
        tensors, another dtype, wrong shapes, NaN or infinity.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    broken = f"{where} is not a safetensors file or is cut short or damaged"
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = dict(header.pop("__metadata__", None) or {})
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise HeadError(f"{broken}; {_CURE}") from error
    file_format, version = metadata.pop("format", None), metadata.pop("version", None)
    if file_format != FORMAT:
        found = ", ".join(sorted(header)[:3]) or "none"
        raise HeadError(
            f"{where} is not a SOAP head: its format is {file_format!r}, not {FORMAT!r} (tensors: "
            f"{found}{' ...' if len(header) > 3 else ''}); give the head.safetensors of a head"
        )
    if version != VERSION:
        raise HeadError(
            f"{where} has version {version!r} of the head's format and this soapworks reads "
            f"{VERSION!r}; upgrade soapworks, or {_CURE}"
        )
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HeadError(f"{broken} ({error}); {_CURE}") from error
    check(tensors, where)
    return tensors, metadata


def check(tensors: dict[str, np.ndarray], where: str) -> None:
    """Raise HeadError unless the tensors are those of a head."""
    missing = {"weight"} - set(tensors)
    unexpected = set(tensors) - {"weight", "bias"}
    if missing or unexpected:
        raise HeadError(
            f"{where} is not a whole SOAP head (missing: {', '.join(missing) or 'nothing'}; "
            f"unexpected: {', '.join(sorted(unexpected)) or 'nothing'}); {_CURE}"
        )
    shape = tensors["weight"].shape
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise HeadError(f"weight of {where} must be (D, D), not {shape}; {_CURE}")
    if "bias" in tensors and tensors["bias"].shape != shape[:1]:
        raise HeadError(
            f"bias of {where} must be ({shape[0]},), not {tensors['bias'].shape}; {_CURE}"
        )
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32:
            raise HeadError(f"{name} of {where} must be float32, not {tensor.dtype}; {_CURE}")
        if not np.isfinite(tensor).all():
            raise HeadError(f"{name} of {where} holds NaN or infinity; {_CURE}")


def find(path: str | os.PathLike[str]) -> Path:
    """Return the head's file at ``path``, which is that file or a product's folder.

    Raises
    ------
    MissingProductError
        When there is nothing at ``path``, or the product in that folder is not complete.
    HeadError
        When the folder's completion record cannot be understood.
    """
    place = Path(path)
    if not place.exists():
        raise MissingProductError(
            f"there is no head at {place}; give a head.safetensors or a head's folder on this "
            "machine (bytes from elsewhere go to SoapHead.from_bytes)"
        )
    if not place.is_dir():
        return place
    record = place / "record.json"
    if not record.exists():
        raise MissingProductError(
            f"{place} holds no finished head (no record.json); run the command that makes it again"
        )
    try:
        attempt = json.loads(record.read_text())["attempt"]
        usable = attempt == Path(attempt).name and attempt not in ("", "..")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise HeadError(f"{record} names no attempt; {_CURE}") from error
    if not usable:
        raise HeadError(f"{record} names {attempt!r}, which is not a folder beside it; {_CURE}")
    file = place / attempt / "head.safetensors"
    if not file.exists():
        raise MissingProductError(
            f"{place} names {attempt}, but {file.name} is gone from it; run the command that makes "
            "the head again"
        )
    return file


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` aside and rename it to ``path``, so that nobody sees half a file.

    Raises
    ------
    StoreError
        When it cannot be written; nothing is left behind then.
    """
    place = Path(path)
    aside = place.with_name(f".{place.name}.{uuid.uuid4().hex}.partial")
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(place)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise StoreError(
            f"{place} cannot be written ({error.strerror}); choose an existing folder with "
            f"{len(data)} bytes to spare"
        ) from error
