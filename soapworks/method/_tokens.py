"""Tokens as they come: NumPy arrays or torch tensors, any float dtype, any device.

torch is never imported here. A value can only be a tensor when torch was imported by whoever made
it, so looking into ``sys.modules`` is enough, and the statistics run without torch in memory.
"""

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from soapworks.errors import InputError, PrecisionError

#: Elements of one block of rows: 16 MiB in float32. Every temporary is a small multiple of it.
BLOCK_ELEMENTS = 2**22

#: A float32 response is off by about one rounding of the token's norm; sixteen are not reached.
TOO_CLOSE = 16 * float(np.finfo(np.float32).eps)

#: Longer float32 sums lose digits without being any faster.
MAX_BLOCK_ROWS = 8192


def loaded_torch() -> ModuleType | None:
    """Return torch if it is imported already, else None."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "Tensor") else None


def is_tensor(value: Any) -> bool:
    """Return whether ``value`` is a torch tensor."""
    torch = loaded_torch()
    return torch is not None and isinstance(value, torch.Tensor)


def to_array(value: Any) -> np.ndarray:
    """Return ``value`` as a NumPy array, detached and on the host."""
    if is_tensor(value):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
        return value.numpy()
    return np.asarray(value)


def check_tokens(tokens: Any, n_channels: int, *, grid: bool = False) -> Any:
    """Return ``tokens`` as an array or a detached tensor, checked.

    Raises
    ------
    InputError
        For another number of axes or channels, or a dtype that is not a real number. With
        ``grid`` the axes must be (image, row, column, channel).
    """
    tokens = tokens.detach() if is_tensor(tokens) else np.asarray(tokens)
    shape = tuple(tokens.shape)
    if grid and len(shape) != 4:
        raise InputError(f"tokens must be (image, row, column, channel), not of shape {shape}")
    if len(shape) < 2:
        raise InputError(
            f"tokens must be (n, channel) or (image, row, column, channel), not of shape {shape}"
        )
    if shape[-1] != n_channels:
        raise InputError(
            f"tokens of shape {shape} have {shape[-1]} channels in their last axis, "
            f"but {n_channels} channels are expected here"
        )
    if is_tensor(tokens):
        is_number = not tokens.is_complex() and str(tokens.dtype) != "torch.bool"
    else:
        is_number = tokens.dtype.kind in "fiu" or tokens.dtype.name == "bfloat16"
    if not is_number:
        raise InputError(f"tokens must be real numbers, not {tokens.dtype}")
    return tokens


def unusable_tokens() -> PrecisionError:
    """Return the error for tokens without a finite norm."""
    return PrecisionError(
        "tokens hold NaN, infinity or values too large to be squared in float32; extract these "
        "features in float32, or leave out the images they come from"
    )


def block_rows(n_channels: int) -> int:
    """Return the number of rows of a block of tokens."""
    return max(64, min(BLOCK_ELEMENTS // n_channels, MAX_BLOCK_ROWS))


def iterate_blocks(tokens: Any, n_rows: int) -> Iterator[Any]:
    """Yield ``tokens`` as (at most ``n_rows``, channel) blocks, in order.

    Tokens that are no rows without a copy (such as a slice without the prefix tokens) are
    copied a few images at a time, never whole.
    """
    n_channels = tokens.shape[-1]
    contiguous = tokens.is_contiguous() if is_tensor(tokens) else tokens.flags.c_contiguous
    if tokens.ndim > 2 and not contiguous:
        rows_per_image = max(1, int(np.prod(tokens.shape[1:-1])))
        step = max(1, n_rows // rows_per_image)
    else:
        step = max(1, tokens.shape[0])
    for first in range(0, tokens.shape[0], step):
        piece = tokens[first : first + step]
        rows = piece if piece.ndim == 2 else piece.reshape(-1, n_channels)
        for start in range(0, rows.shape[0], n_rows):
            yield rows[start : start + n_rows]


def centre_into(rows: Any, centre: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Write ``rows - centre`` into ``out`` and return what was written.

    The difference is formed in the wider of both dtypes before it is rounded to ``out``'s, so
    tokens with large means keep their digits. ``centre`` must be representable in ``out.dtype``.
    """
    out = out[: rows.shape[0]]
    array = _without_copy(rows)
    if array is not None and array.dtype == np.float64:
        return np.subtract(array, centre, out=out, casting="same_kind")
    if array is not None and array.dtype == out.dtype:
        return np.subtract(array, centre.astype(out.dtype), out=out)
    _cast_into(rows, out)
    return np.subtract(out, centre.astype(out.dtype), out=out)


def to_float64(rows: Any) -> np.ndarray:
    """Return a float64 copy of ``rows`` as an array."""
    if is_tensor(rows):
        return rows.double().cpu().numpy()
    return rows.astype(np.float64)


def _without_copy(rows: Any) -> np.ndarray | None:
    if not is_tensor(rows):
        return rows
    torch = loaded_torch()
    if torch and rows.device.type == "cpu" and rows.dtype in (torch.float32, torch.float64):
        return rows.numpy()
    return None


def _cast_into(rows: Any, out: np.ndarray) -> None:
    torch = loaded_torch()
    if is_tensor(rows) and torch:
        torch.from_numpy(out).copy_(rows)
    elif rows.dtype == np.float16 and torch:
        # torch casts float16 some 20 times as fast as NumPy; it warns of read-only memory.
        rows = rows if rows.flags.writeable else rows.copy()
        torch.from_numpy(out).copy_(torch.from_numpy(rows))
    else:
        np.copyto(out, rows, casting="unsafe")
