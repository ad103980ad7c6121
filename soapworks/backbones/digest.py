"""The identity of weights: a digest of tensors, whatever file they came in."""

from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING

from soapworks.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def weights_digest(state_dict: "Mapping[str, Tensor]") -> str:
    """Digest names, dtypes, shapes and bytes of tensors.

    Neither the order of the mapping nor strides, storage sharing or device matter, so the same
    weights saved as ``.pth`` and as ``.safetensors`` have the same digest.

    Parameters
    ----------
    state_dict
        Name to dense tensor, any dtype (bfloat16 and float8 too) and shape (scalars too).

    Returns
    -------
    str
        64 hexadecimal digits (sha256).

    Raises
    ------
    InputError
        If a value is no dense tensor.
    """
    import torch

    digest = sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name]
        if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided:
            raise InputError(f"the digest of weights needs dense tensors, but {name!r} is not one")
        # Lengths go in front so that no two different mappings feed the same bytes to the hash.
        head = f"{len(name)}:{name}:{tensor.dtype}:{tuple(tensor.shape)}:"
        digest.update(head.encode("utf-8", "surrogatepass"))
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
