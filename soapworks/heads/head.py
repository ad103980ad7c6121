"""The SOAP head: one linear map that suppresses non-semantic components of patch tokens.

Needs torch, safetensors and NumPy alone.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import nn

from soapworks.errors import InputError
from soapworks.heads import _file as _head_file
from soapworks.method._tokens import to_array

if TYPE_CHECKING:
    from soapworks.method.pca import Pca


class SoapHead(nn.Module):
    """The linear map that suppresses components of patch tokens.

    ``head(z) = z P' (+ bias)`` with ``P = I - V diag(w) V'``, for patch tokens only;
    `soapworks.attach` leaves prefix tokens alone. The matrix is a buffer: it moves and is cast with
    the model and is never trained. Tokens keep their dtype, and those of another dtype than the
    head's are multiplied in the head's.

    Parameters
    ----------
    weight : (D, D) array or tensor
        P; kept in float32.
    bias : (D,) array or tensor, optional
        Added after the product (the centred variant).
    metadata : mapping of str to str, optional
        Kept in the file; `soapworks.attach` reads ``layer``, where the head belongs.

    Raises
    ------
    HeadError
        For wrong shapes, NaN or infinity.
    InputError
        For metadata that are not text, or use the reserved names ``format`` and ``version``.

    Notes
    -----
    Section 6 of docs/method.md.

    Examples
    --------
    >>> import torch
    >>> head = SoapHead([[1, 0], [0, 0]], metadata={"layer": "norm"})
    >>> head(torch.tensor([[3.0, 4.0]]))
    tensor([[3., 0.]])
    """

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self, weight: Any, bias: Any = None, *, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        tensors = {"weight": np.array(to_array(weight), np.float32)}
        if bias is not None:
            tensors["bias"] = np.array(to_array(bias), np.float32)
        _head_file.check(tensors, "the head given")
        self.metadata = _check_metadata(metadata or {})
        # Tensors made in inference mode could never take part in a backward pass.
        with torch.inference_mode(False):
            for name in ("weight", "bias"):
                array = tensors.get(name)
                self.register_buffer(name, None if array is None else torch.from_numpy(array))

    @classmethod
    def from_pca(
        cls,
        pca: "Pca",
        weights: Any,
        *,
        centred: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> Self:
        """Return the head that suppresses components by their weights.

        Parameters
        ----------
        pca : Pca
        weights : (D,)
            0 keeps a component, 1 removes it; see `soapworks.suppression_weights`.
        centred : bool
            Keep the mean's part along suppressed directions (bias = (I - P) mean). By the
            method's definition it goes too.
        metadata : mapping of str to str, optional

        Raises
        ------
        InputError
            For weights of another shape, NaN or infinity.

        Examples
        --------
        >>> from soapworks.method.pca import Pca
        >>> axes = [[0, 1], [1, 0]]
        >>> pca = Pca(mean=[5, 2], components=axes, explained_variance=[2, 1], count=9)
        >>> SoapHead.from_pca(pca, [0.75, 0]).weight
        tensor([[1.0000, 0.0000],
                [0.0000, 0.2500]])
        """
        weights = np.asarray(to_array(weights), np.float64)
        if weights.shape != pca.mean.shape or not np.isfinite(weights).all():
            raise InputError(
                f"a head of {pca.mean.size} channels needs as many finite weights, not "
                f"{'NaN or infinity' if weights.shape == pca.mean.shape else weights.shape}"
            )
        suppressed = (pca.components.T * weights) @ pca.components
        suppressed = (suppressed + suppressed.T) / 2
        bias = suppressed @ pca.mean if centred else None
        return cls(np.eye(len(suppressed)) - suppressed, bias, metadata=metadata)

    @property
    def n_channels(self) -> int:
        """D, the number of channels of the tokens that the head takes."""
        return self.weight.shape[0]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return projected tokens.

        Parameters
        ----------
        tokens : (..., D) tensor
            Patch tokens of any floating dtype, float16 and bfloat16 too.

        Returns
        -------
        tokens : (..., D) tensor
            Of the same dtype; the product is computed in the head's.

        Raises
        ------
        InputError
            For another number of channels, or anything but a tensor of a floating dtype.
        """
        if not isinstance(tokens, torch.Tensor) or not tokens.is_floating_point():
            found = tokens.dtype if isinstance(tokens, torch.Tensor) else type(tokens).__name__
            raise InputError(f"a head takes a torch tensor of a floating dtype, not {found}")
        if tokens.shape[-1] != self.weight.shape[0]:
            raise InputError(
                f"this head takes tokens of {self.weight.shape[0]} channels, and they have "
                f"{tokens.shape[-1]}"
            )
        projected = nn.functional.linear(tokens.to(self.weight.dtype), self.weight, self.bias)
        return projected.to(tokens.dtype)

    def extra_repr(self) -> str:
        """Return the description that ``print(head)`` shows."""
        layer = self.metadata.get("layer")
        return f"{self.n_channels}{', centred' if self.bias is not None else ''}" + (
            f", layer={layer}" if layer else ""
        )

    def to_bytes(self) -> bytes:
        """Return the bytes of the head's file, equal for equal heads."""
        tensors = {"weight": self.weight.detach().float().cpu().numpy()}
        if self.bias is not None:
            tensors["bias"] = self.bias.detach().float().cpu().numpy()
        return _head_file.encode(tensors, _check_metadata(self.metadata))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the head as safetensors, whole or not at all.

        Parameters
        ----------
        path
            The file; one that is there is replaced.

        Raises
        ------
        StoreError
            When ``path`` cannot be written.
        """
        _head_file.write(path, self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes, *, source: str = "the head given") -> Self:
        """Return the head whose file has these bytes.

        Parameters
        ----------
        data
            Bytes of a ``head.safetensors``.
        source
            How errors name them.

        Raises
        ------
        HeadError
            For anything but a whole head: other formats, missing or unexpected tensors, wrong
            shapes or dtypes, NaN, infinity, bytes cut short.
        """
        tensors, metadata = _head_file.decode(bytes(data), source)
        return cls(tensors["weight"], tensors.get("bias"), metadata=metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Return the head in a file or in a store's folder.

        Parameters
        ----------
        path
            A ``head.safetensors``, or the folder of a head in a store on this machine. In a store
            the file is compared with the digest in its completion record.

        Raises
        ------
        MissingProductError
            When nothing is there, or the folder's head is not finished.
        DamagedProductError
            When the bytes in a store are not those that were written.
        HeadError
            When it is not a whole head; see `from_bytes`.
        """
        data, source = _head_file.read(path)
        return cls.from_bytes(data, source=source)


def fold(head: SoapHead, linear: nn.Linear) -> nn.Linear:
    """Compose a head and a linear layer into one layer.

    It computes ``linear(head(z))``. With W, b of the layer and P, c of the head it has the weight W
    P and the bias W c + b, composed in float64 and rounded once to the layer's dtype. Right where
    ``linear`` sees patch tokens only, as segmentation heads do: a prefix token would be projected
    too.

    Parameters
    ----------
    head : SoapHead
    linear : nn.Linear
        From D channels to any number; it is left as it is.

    Returns
    -------
    folded : nn.Linear
        New, of ``linear``'s shape, dtype and device.

    Raises
    ------
    InputError
        When ``linear`` is not an ``nn.Linear`` that takes the head's channels.

    Notes
    -----
    Section 6 of docs/method.md.

    Examples
    --------
    >>> import torch
    >>> head, linear = SoapHead([[1, 0], [0, 0]]), torch.nn.Linear(2, 3)
    >>> tokens = torch.ones(5, 2)
    >>> torch.allclose(fold(head, linear)(tokens), linear(head(tokens)))
    True
    """
    if not isinstance(linear, nn.Linear):
        raise InputError(f"a head is folded into an nn.Linear, not into {type(linear).__name__}")
    if linear.in_features != head.n_channels:
        raise InputError(
            f"a head of {head.n_channels} channels cannot be folded into a linear layer that takes "
            f"{linear.in_features}"
        )
    with torch.inference_mode(False), torch.no_grad():
        outer = linear.weight.double()
        weight = outer @ head.weight.to(outer)
        bias = None if linear.bias is None else linear.bias.double()
        if head.bias is not None:
            shift = outer @ head.bias.to(outer)
            bias = shift if bias is None else bias + shift
        folded = nn.utils.skip_init(
            nn.Linear,
            linear.in_features,
            linear.out_features,
            bias=bias is not None,
            device=linear.weight.device,
            dtype=linear.weight.dtype,
        )
        folded.weight.copy_(weight)
        if bias is not None:
            folded.bias.copy_(bias)
    return folded.train(linear.training)


def _check_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InputError(f"a head's metadata must be text, and {key!r} is {value!r}")
        if key in ("format", "version"):
            raise InputError(f"a head's metadata cannot use {key!r}: the file's format does")
    return dict(metadata)
