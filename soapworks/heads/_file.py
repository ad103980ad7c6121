"""The head's file: safetensors, equal bytes for equal heads.

The safetensors library orders metadata differently in every process, so the header is written here
(it is a length, a JSON object and the tensors' bytes), and read back by the library.
"""

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from soapworks.errors import DamagedProductError, HeadError, MissingProductError, StoreError

FORMAT = "soapworks.head"
VERSION = "1"
FILE = "head.safetensors"
RECORD = "record.json"

#: A head of 16,384 channels takes a quarter of it.
MAX_BYTES = 2**32
MAX_RECORD_BYTES = 2**26

_CURE = "export the head again"


def encode(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """Return a file's bytes from float32 tensors and metadata."""
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
    """Return float32 tensors by name, and the user's metadata.

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


def read(path: str | os.PathLike[str]) -> tuple[bytes, str]:
    """Return the bytes of a head, and their file.

    ``path`` is the file, or the folder of a head in a store. Wherever the file belongs to a head in
    a store, its bytes are compared with the digest in the completion record.

    Raises
    ------
    MissingProductError
        When there is nothing at ``path``, or the head in that folder is not complete.
    DamagedProductError
        When the bytes are not those that were written.
    HeadError
        When it is no file of a head's size, or the completion record cannot be understood.
    StoreError
        When it cannot be read.
    """
    place = Path(path)
    try:
        there = place.exists()
    except OSError as error:  # a name that no file can have, a folder that may not be entered
        raise StoreError(f"{place} cannot be read ({error.strerror}); give another path") from error
    if not there:
        raise MissingProductError(
            f"there is no head at {place}; give a head.safetensors or a head's folder on this "
            "machine (bytes from elsewhere go to SoapHead.from_bytes)"
        )
    if not place.is_dir():
        data, record = _read(place, MAX_BYTES), place.absolute().parent.parent / RECORD
        # A copy elsewhere has no record to be compared with.
        in_store = place.name == FILE and place.absolute().parent.name.startswith("attempt-")
        if in_store and record.is_file():
            _compare(data, place, record)
        return data, str(place)
    record = place / RECORD
    if not record.exists():
        raise MissingProductError(
            f"{place} holds no finished head (no {RECORD}); run the command that makes it again"
        )
    file = place / _recorded(record)[0] / FILE
    if not file.exists():
        raise MissingProductError(
            f"{place} names {file.parent.name}, but {FILE} is gone from it; run the command that "
            "makes the head again"
        )
    data = _read(file, MAX_BYTES)
    _compare(data, file, record)
    return data, str(file)


def _read(file: Path, limit: int) -> bytes:
    try:
        if not file.is_file():
            raise HeadError(f"{file} is not a file; give a head.safetensors or a head's folder")
        with file.open("rb") as opened:
            # A read up to the limit would take that much memory at once, whatever is there.
            size = os.fstat(opened.fileno()).st_size
            data = opened.read(min(size, limit) + 1)
    except OSError as error:
        raise StoreError(
            f"{file} cannot be read ({error.strerror}); check its permissions and its disk"
        ) from error
    if len(data) > limit:
        raise HeadError(f"{file} is larger than {limit} bytes, which no head is; {_CURE}")
    return data


def _recorded(record: Path) -> tuple[str, str]:
    """Return a completion record's attempt, and its head's digest."""
    try:
        document = json.loads(_read(record, MAX_RECORD_BYTES))
        attempt, digest = document["attempt"], document["files"][FILE]["sha256"]
        usable = attempt == Path(attempt).name and attempt not in ("", "..")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise HeadError(f"{record} names no attempt with a {FILE}; {_CURE}") from error
    if not usable:
        raise HeadError(f"{record} names {attempt!r}, which is not a folder beside it; {_CURE}")
    return attempt, digest


def _compare(data: bytes, file: Path, record: Path) -> None:
    """Raise DamagedProductError if the record has another digest for ``file``."""
    attempt, digest = _recorded(record)
    if attempt == file.absolute().parent.name and hashlib.sha256(data).hexdigest() != digest:
        raise DamagedProductError(
            f"{file} is damaged: its digest differs from that in {record.name}; run soapworks "
            f"verify --repair, or {_CURE}"
        )


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` aside and rename it to ``path``.

    No reader sees half a file.

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
